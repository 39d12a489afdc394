"""The columns that a format doesn't read: those that hold something, and what some of them mean.

Most say where a row is from, and are only counted. Some say that the row is not to be trained, or
that its text is not the whole of it: to train such a row as if they weren't there would be wrong.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jaxsft.data.read.content import MEDIA, has_media
from jaxsft.data.read.records import Columns
from jaxsft.data.read.strict_json import RowError, show
from jaxsft.data.read.weights import NUMBER_KEYS, OTHER_KEYS, SWITCH_KEYS

_EMPTY = (None, "", [], {})
_PREFERENCE = frozenset(("chosen", "rejected", "preferred", "dispreferred", "unpreferred"))
_SCORES = ("score", "scores", "reward", "rewards", "advantage", "advantages")
_VERDICTS = ("label", "labels", "kto_tag", "desirable", "is_desirable", "thumbs_up", "preference")
_OFF = ("exclude", "excluded", "deleted", "is_deleted", "discard", "discarded", "held_out")
_ON = ("trainable", "is_trainable", "is_train", "keep", "include", "training", "supervised")
_HELD_OUT = ("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation")
_SPLITS = ("split", "subset_split", "data_split", "fold", "partition")
_WORD = re.compile(r"[a-z]+")

# What each kind of column means, and what to do with it but leave it out.
_REMEDIES = {
    "media": "the row is about more than its text: leave such rows out",
    "preference": "rows that compare answers: give the answer to train as messages, or as prompt"
    " and completion",
    "verdict": "rows with a verdict on the answer: keep those whose answers are to be trained",
    "score": "rows with a score of the answer: keep those whose answers are to be trained",
    "held out": "the row is kept for evaluation: leave it out",
    "weight": "a weight of the whole row: give the weight to its assistant messages",
    "switch": "the row says whether it is to be trained, in a way that is not read: say 'train':"
    " false, or leave it out",
}


def unread_of(row: Mapping[str, Any], read: Collection[str]) -> Columns:
    """The columns that hold something and aren't among those that are read.

    Raises:
        RowError: naming all those without which the row would not be trained as it is meant.
    """
    names = [key for key, value in row.items() if key not in read and not _is_empty(value)]
    found: dict[str, list[str]] = {}
    for name in names:
        for meaning in _meanings(name, row[name]):
            found.setdefault(meaning, []).append(name)
    if found:
        said = [
            f"{', '.join(f'{name}={show(row[name])}' for name in named)} ({_REMEDIES[meaning]})"
            for meaning, named in found.items()
        ]
        every = tuple(name for named in found.values() for name in named)
        detail = f"has columns that are not read but mean something: {'; '.join(said)}; or train it"
        detail += f" as if it had none of them: Source.ignore={every}"
        raise RowError(f"column not read: {', '.join(every)}", detail)
    return tuple(name for name in names if not _is_whole(name, row[name]))


def left_out(row: Mapping[str, Any], read: Collection[str]) -> str:
    """Why the row says itself that it is not to be trained; "" where it says no such thing."""
    for key in (*NUMBER_KEYS, *SWITCH_KEYS):
        if key not in read and _is_zero(row.get(key)):
            return f"{key}={show(row[key])} of the row"
    return ""


def _is_whole(name: str, value: Any) -> bool:
    """Whether it says that the row is trained as any other."""
    return (
        name in (*NUMBER_KEYS, *SWITCH_KEYS)
        and isinstance(value, bool | int | float)
        and value == 1
    )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and value in _EMPTY)


def _is_zero(value: Any) -> bool:
    """Whether it is the number 0 or false."""
    return isinstance(value, bool | int | float) and value == 0


def _is_number(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _meanings(name: str, value: Any) -> Iterator[str]:
    """What the column means for training; nothing, for most."""
    name = name.lower()
    if name in MEDIA and has_media(value):
        yield "media"
    if _PREFERENCE.intersection(_WORD.findall(name)):
        yield "preference"
    elif name in _SCORES and _is_number(value):
        yield "score"
    elif name in _VERDICTS and isinstance(value, bool):
        yield "verdict"
    elif name in _SPLITS and isinstance(value, str) and value.lower() in _HELD_OUT:
        yield "held out"
    elif name in NUMBER_KEYS and _is_number(value) and value not in (0, 1):
        yield "weight"
    elif name in SWITCH_KEYS or name in OTHER_KEYS or name in (*_ON, *_OFF):
        if _is_switched(name, value):
            yield "switch"


def _is_switched(name: str, value: Any) -> bool:
    """Whether a switch of the row is set so that the row, or some of it, is not to be trained."""
    if name in SWITCH_KEYS:
        return name == "train" and not isinstance(value, bool)
    if name in _ON:
        return _is_zero(value)
    return isinstance(value, bool | int | list) and bool(value)
