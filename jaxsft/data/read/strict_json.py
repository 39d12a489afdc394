"""JSON that holds nothing which a trainer could misread: what is wrong is said, never mended."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jaxsft.data.conversation import RowError

MAX_LINE_BYTES = 16 * 2**20  # far above any conversation; keeps a broken file from filling memory
MAX_DEPTH = 100  # objects and lists inside each other; every later step may then recurse
_BOM = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Stands for a value of a table that Python can't hold."""

    reason: str


def parse_object(line: bytes) -> dict[str, Any]:
    """A strict JSON object: no duplicate keys, NaN, infinities, NUL or lone surrogates.

    Raises:
        RowError: saying what is wrong and where.
    """
    if len(line) > MAX_LINE_BYTES:
        raise too_long()
    if line.startswith(_BOM):
        raise RowError("byte order mark", "starts with a byte order mark (BOM); save it without")
    if b"\0" in line:
        raise RowError("NUL", f"has a NUL byte at column {line.index(0) + 1}")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"is not UTF-8: {error.reason} at byte {error.start}; convert the file to UTF-8"
        raise RowError("not UTF-8", detail) from None
    value = parse(text)
    if not isinstance(value, dict):
        raise RowError("not an object", f"is a JSON {type(value).__name__}; expected an object")
    return value


def too_long() -> RowError:
    detail = f"line of more than {MAX_LINE_BYTES} bytes; does it hold more than one row?"
    return RowError("line too long", detail)


def parse(text: str) -> Any:
    """Any strict JSON value.

    Raises:
        RowError: saying what is wrong and where.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise RowError("not JSON", f"is not JSON: {where}") from None
    except RowError:
        raise
    except ValueError:  # Python refuses to read an integer of more than some thousand digits
        detail = "has an integer of thousands of digits; write it as a string"
        raise RowError("number too long", detail) from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(value)
    if "\\u" in text:  # the only way for either character to come through
        refuse_characters(value)
    return value


def refuse_characters(value: Any) -> None:
    """Returns where every string of the value can be written as UTF-8 text.

    Raises:
        RowError: a string of `value` has a NUL or a lone surrogate.
    """
    for string in strings(value):
        if "\0" in string:
            raise RowError("NUL", f"has a NUL character in {clip(string)}")
        if string.isascii():
            continue
        for index, char in enumerate(string):
            if "\ud800" <= char <= "\udfff":
                near = f"after {string[max(0, index - 20) : index]!r}" if index else "in a string"
                detail = f"has the lone surrogate \\u{ord(char):04x} {near}; write whole characters"
                raise RowError("lone surrogate", detail)


def refuse_values(value: Any, where: str = "") -> None:
    """Returns where the value, and all that is in it, is of JSON's types.

    Args:
        where: its place in the row, for the message.

    Raises:
        RowError: naming a value, from a table with types of its own, that JSON doesn't have.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                detail = f"{where} has the key {clip(key)} of type {type(key).__name__}"
                raise RowError("not a JSON value", f"{detail}; keys of JSON are strings")
            refuse_values(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            refuse_values(item, f"{where}[{index}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise RowError("NaN or Infinity", f"{where} is {value}, which is not JSON")
    elif isinstance(value, Unreadable):
        raise RowError("not a JSON value", f"{where} can't be read: {value.reason}")
    elif not isinstance(value, str | int | None):
        detail = f"{where} is {clip(value)} of type {type(value).__name__}, which JSON doesn't have"
        raise RowError("not a JSON value", f"{detail}: write it as a string or a number")


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included, in the order of the text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def clip(value: Any) -> str:
    """The value in an error message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _too_deep() -> RowError:
    return RowError("nested too deep", f"is nested more than {MAX_DEPTH} levels deep")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = []
        for item in containers:
            level += item.values() if isinstance(item, dict) else item
    if any(isinstance(item, dict | list) for item in level):
        raise _too_deep()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise RowError("duplicate key", f"has the key {clip(twice)} twice in one object")
    return result


def _constant(name: str) -> None:
    raise RowError("NaN or Infinity", f"has the constant {name}, which is not JSON")


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise RowError("NaN or Infinity", f"has the number {clip(digits)}, beyond any float")
    return number


# No hook for integers: it would cost a call for each token id.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
