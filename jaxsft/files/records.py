"""Dataclasses as JSON and back: a field's name is its key, in the order they are declared.

What reads them goes on when the other side is of another version: a key without a field is left
out, and a field without a key has its default.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxsft.files.whole_files import write_text

_T = TypeVar("_T")


def keyed(key: str, default: Any) -> Any:
    """A field whose key in JSON is no name in Python, such as `from`."""
    return dataclasses.field(default=default, metadata={"key": key})


def keyed_mapping(key: str) -> Any:
    """The same of a mapping, which is empty where the key is missing."""
    return dataclasses.field(default_factory=dict, metadata={"key": key})


def where_known() -> Any:
    """A field that JSON leaves out where it is None."""
    return dataclasses.field(default=None, metadata={"left_out": True})


def to_json(value: Any) -> Any:
    """What json.dumps writes of a dataclass and all that is in it."""
    if dataclasses.is_dataclass(value):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {
            _key(field): to_json(part)
            for field, part in fields
            if part is not None or "left_out" not in field.metadata
        }
    if isinstance(value, Mapping):
        return {key: to_json(part) for key, part in value.items()}
    return [to_json(part) for part in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[_T], value: Mapping[str, Any]) -> _T:
    """The dataclass that `to_json` gave this of; every field needs a default."""
    hints = _hints(kind)
    fields: tuple[dataclasses.Field, ...] = dataclasses.fields(kind)  # pyright: ignore
    known = {field.name: _key(field) for field in fields}
    return kind(
        **{name: _part(hints[name], value[key]) for name, key in known.items() if key in value}
    )


def read(kind: type[_T], file: Path) -> _T:
    """What `write` left in the file; where there is none, a new one."""
    return from_json(kind, json.loads(file.read_text("utf-8")) if file.exists() else {})


def write(file: Path, record: Any) -> None:
    write_text(file, json.dumps(to_json(record), indent=1) + "\n")


def _part(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value) if isinstance(value, Mapping) else hint()
    if origin in (typing.Union, types.UnionType):
        some = next(one for one in arguments if one is not types.NoneType)
        return None if value is None else _part(some, value)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _part(arguments[1], part) for key, part in value.items()}
    if origin in (list, tuple, Sequence) and isinstance(value, list):
        return [_part(arguments[0], part) for part in value]
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _key(field: dataclasses.Field) -> str:
    return field.metadata.get("key", field.name)
