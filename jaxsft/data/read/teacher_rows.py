"""What a teacher said of a row's tokens: its likeliest tokens at each place, with their
log-probabilities."""

from typing import Any

import numpy as np

from jaxsft.data.conversation import RowError, TeacherTargets
from jaxsft.data.read.strict_json import clip

IDS, LOGPROBS = "teacher_ids", "teacher_logprobs"
KEYS = (IDS, LOGPROBS)
_KIND = "bad teacher"
_ROUNDING = 0.01  # by which probabilities that were written with few digits may add up to more


def teacher_targets(row: dict[str, Any], weights: np.ndarray) -> TeacherTargets | None:
    """The tokens and log-probabilities of each trained token's place; None: the row has none.

    They stand at the place of the token that was to be predicted, as labels do. Other places have
    null or an empty list; places may have different numbers of tokens.

    input_ids           1     9    40              2
    weights             0     0     1              1
    teacher_ids         null  null  [40, 7]        [2]
    teacher_logprobs    null  null  [-0.1, -3.2]   [-0.02]

    Args:
        weights: of the row's tokens; the first is 0.

    Raises:
        RowError: naming the key, the place and the value.
    """
    given = [key for key in KEYS if row.get(key) is not None]
    if not given:
        return None
    if len(given) == 1:
        (missing,) = set(KEYS) - set(given)
        raise RowError(
            _KIND, f"has {given[0]} but no {missing}; one says nothing without the other"
        )
    ids, logprobs = (_lists(row[key], key, len(weights)) for key in KEYS)
    places = np.flatnonzero(weights)
    found = [_at(ids[place], logprobs[place], int(place)) for place in places]
    widest = max((len(one) for one, _ in found), default=0)
    ids_SX = np.full((len(found), widest), -1, np.int32)
    logprobs_SX = np.zeros((len(found), widest), np.float32)
    for at, (its_ids, its_logprobs) in enumerate(found):
        order = np.argsort(-its_logprobs, kind="stable")
        ids_SX[at, : len(order)], logprobs_SX[at, : len(order)] = (
            its_ids[order],
            its_logprobs[order],
        )
    return TeacherTargets(ids_SX, logprobs_SX)


def _lists(value: Any, key: str, length: int) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(_KIND, f"{key} is {clip(value)}; expected a list for each token")
    if len(value) != length:
        raise RowError(_KIND, f"{key} has {len(value)} lists, input_ids has {length} tokens")
    return value


def _at(ids: Any, logprobs: Any, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one place, checked."""
    its_ids, its_logprobs = (
        _numbers(ids, IDS, "iu", place),
        _numbers(logprobs, LOGPROBS, "f", place),
    )
    if len(its_ids) != len(its_logprobs):
        raise RowError(
            _KIND,
            f"{IDS}[{place}] has {len(its_ids)} tokens, {LOGPROBS}[{place}] {len(its_logprobs)}",
        )
    wrong = (its_ids < 0) | (its_ids > np.iinfo(np.int32).max)
    if wrong.any() or len(set(its_ids.tolist())) < len(its_ids):
        raise RowError(_KIND, f"{IDS}[{place}] is {clip(ids)}; expected ids, each once")
    total = float(np.exp(its_logprobs).sum())
    if not (np.isfinite(its_logprobs).all() and total <= 1 + _ROUNDING):
        raise RowError(
            _KIND,
            f"{LOGPROBS}[{place}] is {clip(logprobs)}, probabilities that add up to {total:.4g};"
            " expected natural logarithms of probabilities",
        )
    return its_ids.astype(np.int64), its_logprobs.astype(np.float64)


def _numbers(value: Any, key: str, kinds: str, place: int) -> np.ndarray:
    try:
        array = np.asarray(value) if isinstance(value, list) and value else None
    except (ValueError, OverflowError):
        array = None
    if kinds == "f" and array is not None and array.dtype.kind in "iu":
        array = array.astype(np.float64)  # JSON may write 0 for 0.0
    if array is None or array.ndim != 1 or array.dtype.kind not in kinds:
        raise RowError(
            _KIND,
            f"{key}[{place}] is {clip(value)}, at a token that is trained; expected a list of"
            " numbers, at least one",
        )
    return array
