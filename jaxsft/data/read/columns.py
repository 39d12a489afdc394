"""The columns that a format doesn't read: those that hold something, and what some of them mean.

Most say where a row is from, and are only counted. Some say that the row is not to be trained, or
that its text is not the whole of it: to train such a row as if they weren't there would be wrong.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any

from jaxsft.data.conversation import Columns, RowError
from jaxsft.data.read.content import MEDIA, has_media, holds_nothing, is_media
from jaxsft.data.read.strict_json import clip
from jaxsft.data.read.weights import NUMBER_KEYS, SWITCH_KEYS, is_off

KIND = "column not read"
_PREFERENCE = frozenset(("chosen", "rejected", "dispreferred", "unpreferred"))
_ANSWERS = frozenset(("answer", "completion", "output", "response", "text"))
_VERDICTS = ("kto_tag", "kto_label", "desirable", "is_desirable", "thumbs_up")
_LABELS = ("label", "labels", "preference")  # of anything, unless they are true or false
_JUDGED = ("true", "false", "desirable", "undesirable", "chosen", "rejected")
_ADVANTAGES = ("advantage", "advantages")
_HELD_OUT = frozenset(
    ("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation", "holdout")
    + ("heldout", "held")
)
_SPLITS = ("split", "subset_split", "data_split", "fold", "partition")
_WEIGHTS = (*NUMBER_KEYS, "sample_weight", "example_weight", "row_weight", "train_weight")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# The meaning of each kind of column, and what to do with it but leave it out.
_REMEDIES = {
    "media": "the row is about more than its text: leave such rows out",
    "preference": "rows that compare answers: give the answer to train as messages, or as prompt"
    " and completion",
    "verdict": "rows with a verdict on the answer: keep those whose answers are to be trained",
    "advantage": "rows of reinforcement learning: keep those whose answers are to be trained",
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
    names = [key for key, value in row.items() if key not in read and not holds_nothing(value)]
    found: dict[str, list[str]] = {}
    for name in names:
        if meaning := next(_meanings(name, row[name]), None):
            found.setdefault(meaning, []).append(name)
    if found:
        said = [
            f"{', '.join(f'{name}={clip(row[name])}' for name in named)} ({_REMEDIES[meaning]})"
            for meaning, named in found.items()
        ]
        every = tuple(name for named in found.values() for name in named)
        detail = f"has columns that are not read but mean something: {'; '.join(said)}; or train it"
        detail += f" as if it had none of them: Source.ignore={every}"
        raise RowError(f"{KIND}: {', '.join(every)}", detail)
    return tuple(name for name in names if not _is_whole(name, row[name]))


def left_out(row: Mapping[str, Any], read: Collection[str]) -> str:
    """Why the row says itself that it is not to be trained; "" where it says no such thing."""
    for key in (*NUMBER_KEYS, *SWITCH_KEYS):
        # A loss of 0.0 was measured; a switch is an integer at most.
        is_measured = key == "loss" and not isinstance(row.get(key), int)
        if key not in read and _number(row.get(key)) == 0 and not is_measured:
            return f"{key}={clip(row[key])} of the row"
    return ""


def _is_whole(name: str, value: Any) -> bool:
    """Whether it says that the row is trained as any other."""
    return name in (*NUMBER_KEYS, *SWITCH_KEYS) and _number(value) == 1


def _number(value: Any) -> float | None:
    """The number that it is, or that its text is."""
    try:
        return float(value) if isinstance(value, int | float | Decimal | str) else None
    except ValueError:
        return None
    except OverflowError:
        return float("inf")


def _meanings(name: str, value: Any) -> Iterator[str]:
    """What the column means for training; nothing, for most."""
    words = [word.lower() for word in _WORD.findall(name)]
    name = "_".join(words)  # rejectedResponse is rejected_response, and image_2 an image
    if (name in MEDIA and has_media(value)) or is_media(value):
        yield "media"
    if _is_preference(words) and not isinstance(value, bool):
        yield "preference"
    if is_off(name, value) or _is_unclear(name, value):
        yield "switch"
    if name in _VERDICTS or (name in _LABELS and _is_verdict(value)):
        yield "verdict"
    if name in _ADVANTAGES:
        yield "advantage"
    if name in _SPLITS and isinstance(value, str):
        if _HELD_OUT.intersection(_WORD.findall(value.lower())):
            yield "held out"
    if name in _WEIGHTS and _is_weight(value):
        yield "weight"


def _is_unclear(name: str, value: Any) -> bool:
    """Whether it is a switch that is neither on nor off; a number may be a measured loss."""
    number = _number(value)
    return (name == "train" and number not in (0, 1)) or (
        name == "loss" and isinstance(value, str) and number is None
    )


def _is_preference(words: Collection[str]) -> bool:
    if _PREFERENCE.intersection(words):
        return True
    return "preferred" in words and (len(words) == 1 or bool(_ANSWERS.intersection(words)))


def _is_verdict(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _JUDGED)


def _is_weight(value: Any) -> bool:
    """Whether it holds numbers that aren't 1, with which every row is trained."""
    values = [_number(each) for each in (value if isinstance(value, list) else [value])]
    return None not in values and set(values) != {1.0}
