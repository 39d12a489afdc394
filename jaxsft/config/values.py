"""Values of a config: whether they are what their annotations say, and from JSON."""

import collections.abc
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxsft.config.run import Config
from jaxsft.errors import ConfigError

# Devices compute in float32: a larger number is infinite there, a smaller one 0.
_LEAST, _MOST = 1.1754944e-38, 3.4028234e38


def check_types(value: Any, name: str) -> None:
    """Every field holds what its annotation says; reports the first that doesn't by its name."""
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if not is_instance(item, hints[field.name]):
            raise ConfigError(
                f"{name}.{field.name}={item!r}: expected {type_name(hints[field.name])},"
                f" got {type(item).__name__}"
            )
        if not _is_text(item):
            raise ConfigError(f"{name}.{field.name}={item!r}: is not UTF-8; expected text that is")
        for index, part in enumerate(item if isinstance(item, tuple) else (item,)):
            if dataclasses.is_dataclass(part):
                suffix = f"[{index}]" if isinstance(item, tuple) else ""
                check_types(part, f"{name}.{field.name}{suffix}")


def _is_text(value: object) -> bool:
    """Whether every string in the value is UTF-8: the name of a file may be no text."""
    if isinstance(value, dict):
        return all(_is_text(key) and _is_text(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_text, value))
    return not isinstance(value, str) or not re.search("[\ud800-\udfff]", value)


def check_float32(value: object, name: str) -> None:
    """Raises ConfigError naming a number, at any depth, that float32 has not."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_float32(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_float32(item, f"{name}[{index}]")
    # An integer may be larger than any float.
    elif isinstance(value, int) or isinstance(value, float) and math.isfinite(value):
        if value and not _LEAST <= abs(value) <= _MOST:
            there = "0" if abs(value) < 1 else "infinite"
            raise ConfigError(
                f"{name}={value}: is {there} in float32, in which devices compute; its size must"
                f" lie in [{_LEAST:.2g}, {_MOST:.2g}]"
            )


def is_instance(value: object, hint: Any) -> bool:
    """Whether `value` is what the annotation of a field says."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in args
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is types.UnionType or origin is typing.Union:
        return any(is_instance(value, arg) for arg in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(is_instance(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            is_instance(key, args[0]) and is_instance(item, args[1]) for key, item in value.items()
        )
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def type_name(hint: object) -> str:
    """The annotation as a user would write it: `int or None`, `one of 'a', 'b'`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is collections.abc.Callable:
        return "a function"
    if origin is types.UnionType or origin is typing.Union:
        return " or ".join(type_name(arg) for arg in args)
    if origin is tuple:
        return f"a tuple of {type_name(args[0])}"
    if origin is dict:
        return f"a dict of {type_name(args[0])} to {type_name(args[1])}"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def optional_section(hint: Any) -> Any:
    """The class of a section that may be None, by the annotation of its field; None: no such."""
    sections = [arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)]
    return sections[0] if type(None) in typing.get_args(hint) and sections else None


def to_dict(config: Config) -> dict[str, Any]:
    """The values of a config as JSON has them; of a function its name stands there."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _function_name(value) if callable(value) else value


def _function_name(value: Callable[..., Any]) -> str:
    """Nothing of where it lies in memory, which differs from start to start."""
    if isinstance(value, functools.partial):
        return f"partial of {_function_name(value.func)}"
    return getattr(value, "__qualname__", type(value).__qualname__)


def from_dict(values: dict[str, Any]) -> Config:
    """The config that `to_dict` turned into `values`, as a run's config.json holds it.

    Raises:
        ConfigError: a field that is missing, unknown or of another type.
    """
    config: Config = from_value(Config, values, "config")
    check_types(config, "config")
    return config


def from_value(hint: Any, value: Any, name: str) -> Any:
    """What JSON says of a field: its sections from objects, its tuples from lists.

    Raises:
        ConfigError: a field that is missing or unknown.
    """
    plain = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    if value is not None and len(plain) == 1 and type(None) in typing.get_args(hint):
        hint = plain[0]
    sections = [arg for arg in typing.get_args(hint) if dataclasses.is_dataclass(arg)]
    if len(sections) > 1 and isinstance(value, dict):
        hint = _of_kind(sections, value, name)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{name}={value!r}: expected the fields of {hint.__name__}")
        hints = typing.get_type_hints(hint)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise ConfigError(f"{name}.{min(unknown)}: {hint.__name__} has no such field")
        try:
            return hint(**{k: from_value(hints[k], v, f"{name}.{k}") for k, v in value.items()})
        except TypeError as error:
            raise ConfigError(f"{name}: {error}") from None
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        of_item = typing.get_args(hint)[0]
        return tuple(from_value(of_item, item, f"{name}[{i}]") for i, item in enumerate(value))
    return value


def _of_kind(sections: Sequence[Any], value: dict[str, Any], name: str) -> Any:
    """Of classes that each have a `kind`, that which the object is of."""
    by_kind = {next(iter(typing.get_args(_hint_of_kind(one)))): one for one in sections}
    kind = value.get("kind")
    if kind in by_kind:
        return by_kind[kind]
    near = difflib.get_close_matches(str(kind), by_kind, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(by_kind)}"
    raise ConfigError(f"{name}.kind={kind!r}: there is none; {hint}")


def _hint_of_kind(section: Any) -> Any:
    return typing.get_type_hints(section)["kind"]
