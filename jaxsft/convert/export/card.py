"""The model card (README.md) of an exported model: what it is and how it was made."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping

from jaxsft.terminal.redact import redacted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure of held-out data, for the card's table."""

    name: str
    before: float | None  # training; None: not measured
    after: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What only the run knows; an empty field is left out of the card."""

    command: str = ""
    data_fingerprint: str = ""
    mask_policy: str = ""  # which tokens carried loss
    metrics: tuple[Metric, ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def render(
    card: Card,
    base: str,
    license_lines: Mapping[str, str],
    template: str | None,
    library: str = "transformers",
) -> str:
    """The card as Markdown with a YAML header.

    Args:
        library: that loads the directory.
        base: the model that was trained, as the user named it.
        license_lines: the base's own `license...` fields of its YAML header.
        template: the chat template in the export.
    """
    return (
        "\n".join([*_header(base, license_lines, library), "", *_body(card, base, template)]) + "\n"
    )


def template_sha256(template: str) -> str:
    """SHA-256 of the template's UTF-8 text, in hexadecimal."""
    return hashlib.sha256(template.encode()).hexdigest()


def license_fields(readme: str) -> dict[str, str]:
    """The license fields in a model card's YAML header, as written.

    >>> license_fields("---\\nlicense: mit\\ntags: [a]\\n---\\nText")
    {'license': 'mit'}
    """
    header = re.match(r"---\r?\n(.*?)\r?\n---", readme, re.DOTALL)
    if not header:
        return {}
    return dict(re.findall(r"^(license(?:_name|_link)?):[ \t]*(\S.*?)\s*$", header[1], re.M))


def _header(base: str, license_lines: Mapping[str, str], library: str) -> list[str]:
    lines = [f"{name}: {value}" for name, value in license_lines.items()]
    return [
        "---",
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        f"base_model: {json.dumps(redacted(base), ensure_ascii=False)}",
        *lines,
        "tags:",
        "- jaxsft",
        "- sft",
        "---",
    ]


def _body(card: Card, base: str, template: str | None) -> list[str]:
    facts = {
        "Base model": base,
        "Training data (fingerprint)": card.data_fingerprint,
        "Tokens that carried loss": card.mask_policy,
        "Chat template (SHA-256)": template_sha256(template) if template is not None else "none",
        "Versions": ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    }
    lines = ["# Model card", "", "Supervised fine-tuning with jaxsft.", ""]
    lines += [f"- {name}: {redacted(value)}" for name, value in facts.items() if value]
    if card.metrics:
        lines += ["", "| measured | before | after |", "|---|---|---|"]
        lines += [f"| {m.name} | {_number(m.before)} | {_number(m.after)} |" for m in card.metrics]
    if card.command:
        lines += ["", "Made by:", "", "```", redacted(card.command), "```"]
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
