"""Which chat template a tokenizer's files hold: a file of its own, or in tokenizer_config.json one
template, or several by name, of which that named "default" is used. No jax here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "chat_template.jinja"
_DEFAULT = "default"


def used(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The template that transformers takes, or None.

    Args:
        config: of tokenizer_config.json.
    """
    file = directory / FILE
    return file.read_bytes().decode("utf-8") if file.is_file() else embedded(config)


def embedded(config: Mapping[str, Any]) -> str | None:
    """The template that is used of tokenizer_config.json where no file has one."""
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get(_DEFAULT)
    return found if isinstance(found, str) else None


def without_other(config: Mapping[str, Any], template: str) -> dict[str, Any]:
    """A tokenizer_config.json that names no other template than this as the one to be used."""
    changed, found = dict(config), config.get("chat_template")
    if isinstance(found, list):
        others = [entry for entry in found if entry.get("name") != _DEFAULT]
        changed["chat_template"] = [*others, {"name": _DEFAULT, "template": template}]
    elif found not in (None, template):
        del changed["chat_template"]
    return changed
