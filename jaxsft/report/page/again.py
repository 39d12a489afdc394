"""What was run: the config beside its defaults, the data's fingerprints and the checkpoints."""

import dataclasses
import hashlib
import json
import shlex
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from jaxsft.config import Config
from jaxsft.report.run_read import RunFiles

_NO_DEFAULT = "must be given"
_NOT_SET = "not set"
_BY_COMMAND, _BY_RUN = "command line", "set by the run"


def differing(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Each field that is not what it is when nobody says anything, with what that is."""
    return list(_differing(Config, config, ""))


def _differing(kind: type, value: dict[str, Any], name: str) -> Iterator[tuple[str, str, str]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in value:
            continue
        path = f"{name}.{field.name}" if name else field.name
        now, default = value[field.name], _default(field)
        section = _section(hints[field.name])
        if section is not None and isinstance(now, dict):
            yield from _differing(section, now, path)
        elif section is not None and isinstance(now, list):
            for index, one in enumerate(now):
                if isinstance(one, dict):
                    yield from _differing(section, one, f"{path}[{index}]")
        elif json.dumps(now) != json.dumps(default, default=str):
            given = _NO_DEFAULT if default is dataclasses.MISSING else _said(default)
            yield path, _said(now), given


def from_base(run: RunFiles) -> list[tuple[str, str, str, str]]:
    """Each field that is not what the config file said, with what that was, and who changed it;
    none where the file is not known.

    Of a section that the file left out the fields that are not their defaults.
    """
    now, before = dict(flatten(run.config)), dict(flatten(run.base_config))
    if not before:
        return []
    said = [field for field, _, _ in differing(run.config)]
    asked = overrides(run.command)
    rows = []
    for field, value in now.items():
        if before.get(field) == value or (field not in before and not within(field, said)):
            continue
        rows.append((field, value, before.get(field, _NOT_SET)))
    gone = [field for field in before if field not in now and not _above(field, now)]
    rows += [(field, _NOT_SET, before[field]) for field in gone]
    return [(*row, _BY_COMMAND if within(row[0], asked) else _BY_RUN) for row in rows]


def within(field: str, several: Iterable[str]) -> bool:
    """Whether it is one of them or a part of one: "optim.betas[0]" of "optim.betas"."""
    return any(field == one or field.startswith((f"{one}.", f"{one}[")) for one in several)


def _above(field: str, several: Iterable[str]) -> bool:
    """Whether one of them is a part of it."""
    return any(one.startswith((f"{field}.", f"{field}[")) for one in several)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _section(hint: Any) -> type | None:
    """The dataclass that a field holds, one or several of it, or None."""
    arguments = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, list):
        arguments = list(typing.get_args(hint))
    return next((one for one in arguments if dataclasses.is_dataclass(one)), None)  # pyright: ignore


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """`{"data": {"train": [{"path": "x"}]}}` -> `("data.train[0].path", "x")`."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from flatten(item, f"{name}[{index}]")
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value)


def overrides(command: str | None) -> set[str]:
    """The fields that the command line changed: `"optim.peak_lr"`."""
    try:
        words = shlex.split(command or "")
    except ValueError:
        return set()
    names = [word.lstrip("-").partition("=")[0] for word in words if word.startswith("-")]
    found = {name.removeprefix("config.") for name in names if name.startswith("config.")}
    return found | ({"model.continue_from"} if "continue_from" in names else set())


def prints(run: RunFiles) -> list[tuple[str, str]]:
    """The data's fingerprint, and of each checkpoint that is left a digest of its arrays."""
    data = {one.fingerprint for one in run.checkpoints if one.fingerprint}
    found = [("training data", value) for value in sorted(data)]
    for one in run.checkpoints:
        text = json.dumps(dict(sorted(one.digests.items())))
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        found.append(
            (f"checkpoint after step {one.step:,}", digest if one.digests else "not noted")
        )
    return found
