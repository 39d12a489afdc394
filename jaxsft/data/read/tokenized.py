"""Rows that another program has tokenized already."""

from typing import Any

import numpy as np

from jaxsft.data.conversation import RowError, Tokenized
from jaxsft.data.read.strict_json import clip
from jaxsft.data.read.teacher_rows import teacher_targets
from jaxsft.data.read.weights import LEAST, MOST, WANTED

IGNORED = -100  # the label of a token that is not trained, as in PyTorch's cross-entropy
# A row may say with one of these which tokens are trained.
MASKS = ("assistant_masks", "assistant_mask", "completion_mask", "loss_mask")
WEIGHTS = ("labels", "weights", *MASKS)
_KIND = "bad tokens"


def tokenized(row: dict[str, Any], file: str, number: int) -> Tokenized:
    """The tokens and weights of `input_ids` and, beside it, `labels`, `weights` or a mask.

    input_ids     1    9   40  2
    labels     -100 -100   40  2    at the place of their token, not shifted
    weights       0    0    1  1

    Without any of them every token is trained. The first token, which nothing predicts, never is.
    `teacher_ids` and `teacher_logprobs` may say what a teacher thinks of those that are.

    Raises:
        RowError: naming the key, the place and the value.
    """
    ids = _numbers(row, "input_ids", "iu")
    if not len(ids):
        raise RowError(_KIND, "input_ids=[]: there is no token")
    outside = np.flatnonzero((ids < 0) | (ids > np.iinfo(np.int32).max))
    if len(outside):
        place = int(outside[0])
        raise RowError(_KIND, f"input_ids[{place}]={ids[place]}: no token id")
    _check_whole(row, ids)
    given = [key for key in WEIGHTS if row.get(key) is not None]
    if len(given) > 1:
        raise RowError(_KIND, f"has {' and '.join(given)}; keep the one that says what is trained")
    weights = np.ones(len(ids), np.float32)
    if given == ["labels"]:
        weights = _weights_of_labels(row, ids)
    elif given:
        weights = _weights(row, given[0], len(ids))
    weights[0] = 0
    taught = teacher_targets(row, weights)
    return Tokenized(ids.astype(np.int32), weights, file, number, teacher=taught)


def _weights_of_labels(row: dict[str, Any], ids: np.ndarray) -> np.ndarray:
    labels = _numbers(row, "labels", "iu", len(ids))
    trained = labels != IGNORED
    wrong = np.flatnonzero(trained & (labels != ids))
    if len(wrong):
        place = int(wrong[0])
        shifted = np.array_equal(labels[:-1][trained[:-1]], ids[1:][trained[:-1]])
        raise RowError(
            "labels are not the tokens",
            f"labels[{place}]={labels[place]} but input_ids[{place}]={ids[place]}; a label is "
            f"{IGNORED} or the token at its own place"
            + (": these are shifted by one, shift them back" if shifted else ""),
        )
    return trained.astype(np.float32)


def _weights(row: dict[str, Any], key: str, length: int) -> np.ndarray:
    weights = _numbers(row, key, "iufb", length).astype(np.float64)
    bad = ~((weights == 0) | ((weights >= LEAST) & (weights <= MOST)))  # NaN is bad
    if key in MASKS:
        bad |= (weights != 0) & (weights != 1)
    if bad.any():
        place = int(bad.argmax())
        wanted = "expected 0 or 1" if key in MASKS else WANTED
        raise RowError(_KIND, f"{key}[{place}]={weights[place]:g}: {wanted}")
    return weights.astype(np.float32)


def _check_whole(row: dict[str, Any], ids: np.ndarray) -> None:
    """Neither padding nor several documents in one row: packing is done here."""
    if row.get("attention_mask") is not None:
        mask = _numbers(row, "attention_mask", "iub", len(ids))
        if not mask.all():
            place = int((mask == 0).argmax())
            raise RowError(_KIND, f"attention_mask[{place}]=0: leave the padding out of the row")
    if row.get("position_ids") is not None:
        positions = _numbers(row, "position_ids", "iu", len(ids))
        wrong = np.flatnonzero(positions != np.arange(len(ids)))
        if len(wrong):
            place = int(wrong[0])
            detail = f"position_ids[{place}]={positions[place]}: a packed row; give each document "
            raise RowError(_KIND, detail + "a row of its own, packing is done here")


def _numbers(row: dict[str, Any], key: str, kinds: str, length: int | None = None) -> np.ndarray:
    """The list under `key` as an array whose dtype is of one of numpy's `kinds`."""
    value = row[key]
    try:
        array = np.asarray(value) if isinstance(value, list) else None
    except (ValueError, OverflowError):  # lists of unequal length; integers beyond 64 bits
        array = None
    if array is not None and not array.size:
        array = array.astype(np.int64)
    if array is None or array.ndim != 1 or array.dtype.kind not in kinds:
        raise RowError(_KIND, f"{key} is {clip(value)}; expected a list of numbers")
    if length is not None and len(array) != length:
        raise RowError(_KIND, f"{key} has {len(array)} numbers, input_ids has {length}")
    return array
