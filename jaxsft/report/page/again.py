"""What was run: the config beside its defaults, the data's fingerprints and the checkpoints."""

import dataclasses
import hashlib
import json
import shlex
import types
import typing
from collections.abc import Iterator
from typing import Any

from jaxsft.config import Config
from jaxsft.report.run_read import RunFiles

_NO_DEFAULT = "must be given"


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
    names = (word.lstrip("-").partition("=")[0] for word in words if word.startswith("-"))
    return {name.removeprefix("config.") for name in names if name.startswith("config.")}


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
