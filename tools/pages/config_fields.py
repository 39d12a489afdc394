"""Every field of a config with its type, default and meaning, as docs/config.md has them."""

import dataclasses
import inspect
import typing

from jaxsft.cli.program_help import Field, default_of, fields
from jaxsft.config import Config, scorers, type_name
from jaxsft.config.comments import meaning

HEAD = """# Every field of a config

Made by `python tools/config_page.py` from `jaxsft/config/`, whose comments say what each field
means. A field is set in the config's file, `Optim(peak_lr=1e-5)`, or on the command line,
`--config.optim.peak_lr=1e-5`, which wins; `jaxsft help optim.peak_lr` says in the terminal what
stands here.
"""
_OF_SCORERS = """## Scorers

`eval.scorers` holds names of kinds, `"exact"`, or these with settings,
`scorers.Regex(pattern=r"\\d+ kg")`; all have a `name`, of their figure, and `sets`, whose answers
they score (none named: those of all).
"""
_COLUMNS = ("field", "type", "default", "meaning")


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    titles: dict[type, str] = {}
    for title, group in _sections().items():
        first = titles.setdefault(group[0].section, title)
        said = _table([_row(one) for one in group]) if first == title else f"As `{first}`.\n"
        parts += [f"## {title}\n", said]
    parts.append(_OF_SCORERS)
    for kind in typing.get_args(scorers.Scorer):
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            about = (inspect.getdoc(kind) or "").partition("\n\n")[0]
            parts += [f"### {kind.__name__}\n", f"{about}\n", _table(_of_scorer(kind))]
    return "\n".join(part for part in parts if part)


def _sections() -> dict[str, list[Field]]:
    """Fields by the section that holds them, a section before those that it holds."""
    found: dict[str, list[Field]] = {}
    for field in sorted(fields(), key=lambda one: (_order(one), one.path.count("."))):
        found.setdefault(field.path.rpartition(".")[0], []).append(field)
    return found


def _order(field: Field) -> int:
    return [one.name for one in dataclasses.fields(Config)].index(field.path.partition(".")[0])


def _row(field: Field) -> tuple[str, ...]:
    name = field.path.rpartition(".")[2]
    return (f"`{name}`", type_name(field.hint), _default(field.default), field.meaning)


def _of_scorer(kind: type) -> list[tuple[str, ...]]:
    hints = typing.get_type_hints(kind)
    return [
        (f"`{one.name}`", type_name(hints[one.name]), default, meaning(kind, one.name))
        for one in dataclasses.fields(kind)
        if one.name not in ("kind", "name", "sets")
        for default in [_default(default_of(one))]
    ]


def _default(default: str | None) -> str:
    return "*must be given*" if default is None else f"`{default}`"


def _table(rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    """Markdown has its own ideas of a bar, a star and an angle bracket."""
    for character in "|*<":
        if not text.startswith(("`", "*must")):
            text = text.replace(character, f"\\{character}")
    return text
