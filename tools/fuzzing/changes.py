"""What is changed in a file at random: its bytes, its text, or a value of its JSON."""

import copy
import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

# At the borders of what fields hold, and beyond.
NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 + 1)
LARGE = (2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -(2**63) - 1)
FLOATS = (0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", " ", "a", "\0", "\ud800", "\u202e", "é", "e\u0301", "🙂", "None", "true", "../../x")
TEXTS += (
    "{{ x }}",
    "%s%s%n",
    "(a+)+$",
    "a" * 5000,
    "<|im_end|>",
    "<s>",
    "\r\n",
    "\x1b[2J",
    "/dev/zero",
)
OTHERS = (None, True, False, [], {}, [[]], [None], {"": None}, [0] * 300, "0", "1e999")
_WORDS = b'\0\xff"{}[],:\n\r\\\x1f\x8b\x28\xb5\x2f\xfd'


def of_bytes(data: bytes, chance: random.Random) -> bytes:
    """The data with one to a few places changed."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(changed) + 1)
        size = chance.choice((1, 1, 2, 4, 8, 16, 64, 300))
        match chance.randrange(8):
            case 0 if changed:
                changed[min(at, len(changed) - 1)] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = chance.randbytes(size)
            case 3:
                changed[at : at + size] = chance.randbytes(size)
            case 4:
                number = chance.choice(NUMBERS + LARGE) % 2**64
                code = chance.choice(("<B", "<H", "<I", "<Q", ">I", ">Q"))
                field = struct.pack(code, number % 256 ** struct.calcsize(code))
                changed[at : at + len(field)] = field
            case 5:
                del changed[at:]
            case 6:
                changed[at:at] = changed[at : at + size] * chance.choice((1, 2, 50, 1000))
            case _:
                changed[at:at] = bytes([chance.choice(_WORDS)]) * chance.choice((1, 1, 3, 2000))
    return bytes(changed)


def of_text(text: str, words: Sequence[str], chance: random.Random) -> str:
    """The text with pieces taken away, moved, repeated, or one of the words put in."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, size = chance.randrange(len(text) + 1), chance.choice((1, 2, 5, 20, 80))
        piece = text[at : at + size]
        match chance.randrange(5):
            case 0:
                text = text[:at] + text[at + size :]
            case 1:
                to = chance.randrange(len(text) + 1)
                text = text[:to] + piece + text[to:]
            case 2:
                text = text[:at] + piece * chance.choice((2, 3, 40)) + text[at + size :]
            case _:
                text = text[:at] + chance.choice(words) + text[at:]
    return text


def of_values(value: Any, chance: random.Random, others: Sequence[Any] = ()) -> Any:
    """JSON's value with one to a few of the values in it changed.

    Args:
        others: taken beside those that every format is tried with.
    """
    holder = [copy.deepcopy(value)]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(holder))
        inside, key = chance.choice(places)
        elsewhere, other = chance.choice(places)
        match chance.randrange(8):
            case 0 if isinstance(inside, dict):
                del inside[key]
            case 1 if isinstance(inside, dict):
                inside[chance.choice(("", key + "s", key.upper(), "model_type"))] = inside.pop(key)
            case 2:
                inside[key] = copy.deepcopy(elsewhere[other])
            case 3:
                inside[key] = _nested(chance.choice((2, 60, 300, 3000, 200_000)))
            case 4 if isinstance(inside[key], list):
                inside[key] = inside[key] * chance.choice((0, 2, 100))
            case 5 if others:
                inside[key] = copy.deepcopy(chance.choice(others))
            case _:
                inside[key] = a_value(chance)
    return holder[0]


def a_value(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(chance.choice((NUMBERS, LARGE, FLOATS, TEXTS, OTHERS))))


def _nested(depth: int) -> str:
    """Stands for a list in a list in a list, which would be too deep for Python to copy."""
    return f"@nested {depth}@"


def _places(holder: list[Any]) -> Any:
    """Each list or object with a key or number in it."""
    rest: list[Any] = [holder]
    while rest:
        inside = rest.pop()
        for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
            yield inside, key
            if isinstance(inside[key], (dict, list)):
                rest.append(inside[key])


def json_text(value: Any, chance: random.Random) -> bytes:
    """The value as JSON, also as few write it: other escapes, a key twice, a byte order mark."""
    text = json.dumps(value, ensure_ascii=chance.random() < 0.8)
    left, right = chance.choice(("[]", ('{"a":', "}")))
    text = re.sub(
        r'"@nested (\d+)@"', lambda found: left * int(found[1]) + "0" + right * int(found[1]), text
    )
    if chance.random() < 0.05 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + "," + text[1:]
    if chance.random() < 0.02:
        text = "\ufeff" + text
    return text.encode("utf-8", "surrogatepass")


def of_json(data: bytes, chance: random.Random, others: Sequence[Any] = ()) -> bytes:
    """A file of JSON with a value changed, or its bytes."""
    if chance.random() < 0.25:
        return of_bytes(data, chance)
    return json_text(of_values(json.loads(data), chance, others), chance)


def of_lines(data: bytes, chance: random.Random) -> bytes:
    """JSON Lines with values changed in one of them, or bytes of all."""
    if chance.random() < 0.2:
        return of_bytes(data, chance)
    lines = data.splitlines()
    at = chance.randrange(len(lines))
    lines[at] = of_json(lines[at], chance)
    return b"\n".join(lines) + b"\n"


Change = Callable[[bytes, random.Random], bytes]
