"""Which rows of a set are trained on, which are held out of it, and which repeat others.

A function of the facts of the rows: so it needs no row again, and is the same on every machine.

N: rows; P: pairs of rows.
"""

import dataclasses
from typing import Literal

import numpy as np

from jaxsft.data.quality import near_duplicates
from jaxsft.data.quality.figures import RowPair
from jaxsft.data.quality.row_statistics import Facts
from jaxsft.errors import DataError

Duplicates = Literal["keep", "drop_exact", "drop_near"]
EXACT = "duplicate: the same as an earlier row"
NEAR = f"near duplicate: {near_duplicates.SIMILAR:.0%} or more of an earlier row's pairs of words"
NOT_SHARED = "not of the share that is trained on, by data.share"
_SHARE_SEED = 1  # another order than that of what is held out
_EXAMPLES = 10  # of pairs of rows


@dataclasses.dataclass(frozen=True, eq=False)
class Division:
    """Each row has one place: it is trained on, held out or dropped."""

    trained: np.ndarray  # int64, row numbers, rising; as the others
    held_out: np.ndarray
    dropped: dict[str, np.ndarray]  # by the reason
    examples: list[RowPair]  # of rows dropped


def divide(
    facts: Facts,
    duplicates: Duplicates,
    holdout: int | float | None,
    seed: int,
    share: float | None = None,
) -> Division:
    """Drops duplicates, the first of each kept, and then holds out a part of what is left; of the
    rest a share is trained on, if one is asked for.

    Raises:
        DataError: there are too few rows, or too many of them are alike.
    """
    first_of = _first_of_same(facts)
    same = np.flatnonzero(first_of != np.arange(len(facts)))
    dropped, pairs = {}, []
    left = np.arange(len(facts))
    if duplicates != "keep":
        dropped[EXACT] = same
        left = np.setdiff1d(left, same, assume_unique=True)
        pairs = [(int(first_of[row]), row, None) for row in same[:_EXAMPLES].tolist()]
    if duplicates == "drop_near":
        near = _near_earlier(facts.signature[left])
        again = left[np.array([row for _, row, _ in near], np.int64)]
        pairs += [(int(left[a]), int(left[b]), round(s, 2)) for a, b, s in near[:_EXAMPLES]]
        dropped[NEAR] = again
        left = np.setdiff1d(left, again, assume_unique=True)
    held_out = np.zeros(0, np.int64)
    if holdout is not None:
        held_out = _held_out(facts, left, holdout, seed)
        left = np.setdiff1d(left, held_out, assume_unique=True)
    if share is not None:
        shared = _shared(facts, left, share)
        dropped[NOT_SHARED] = np.setdiff1d(left, shared, assume_unique=True)
        left = shared
    examples = [RowPair(facts.where(a), facts.where(b), score) for a, b, score in pairs]
    return Division(left, held_out, dropped, examples)


def _first_of_same(facts: Facts) -> np.ndarray:
    """int64 [N], the first row with the dialogue of each row."""
    _, first, group = np.unique(facts.dialogue, return_index=True, return_inverse=True)
    return first[group]


def _near_earlier(signatures: np.ndarray) -> list[tuple[int, int, float]]:
    """(earlier row, row, similarity) of each row that is almost the same as an earlier one that
    stays.

    A row like one that goes is compared with what that one is like: it stays if it is another.
    """
    kept_for: dict[int, int] = {}  # of rows that go
    found: dict[int, tuple[int, float]] = {}
    first, second, score = near_duplicates.similar_pairs(signatures)
    order = np.lexsort((first, second))
    for a, b, s in zip(*(x[order].tolist() for x in (first, second, score)), strict=True):
        if b in found:
            continue
        if a in kept_for:
            a = kept_for[a]
            s = float(near_duplicates.similarity(signatures[[a]], signatures[[b]])[0])
            if s < near_duplicates.SIMILAR:
                continue
        found[b], kept_for[b] = (a, s), a
    return [(a, b, s) for b, (a, s) in sorted(found.items())]


def _held_out(facts: Facts, left: np.ndarray, holdout: float | int, seed: int) -> np.ndarray:
    """Whole groups of rows that are alike, in an order that depends on their words and the seed
    alone: rows that are added later change little of it.
    """
    wanted = holdout if isinstance(holdout, int) else round(holdout * len(left))
    asked = f"config.data.holdout={holdout}"
    if not 0 < wanted < len(left):
        raise DataError(
            f"{asked}: of the {len(left):,} rows that can be trained on, that would be {wanted:,};"
            " at least one must be held out and one be left"
        )
    first, second = _alike(facts, left)
    while True:
        groups = _groups(len(left), first, second)
        chosen = _chosen(groups, facts.dialogue[left], wanted, seed)
        out, rest = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        # Of many that are alike not all pairs are known: none may stand on both sides.
        asked_rows, among, _ = near_duplicates.similar_between(
            facts.signature[left[out]], facts.signature[left[rest]]
        )
        if not len(asked_rows):
            break
        first = np.concatenate([first, out[asked_rows]])
        second = np.concatenate([second, rest[among]])
    if not len(out):
        sizes = np.bincount(groups)
        raise DataError(
            f"{asked}: asks for {wanted:,} of {len(left):,} rows, but rows that are alike or have"
            f" the same prompt stay together, and the smallest such group has"
            f" {sizes[sizes > 0].min():,} of them; hold out more, or name rows of their own in"
            " config.data.eval"
        )
    return left[out]


def _shared(facts: Facts, left: np.ndarray, share: float) -> np.ndarray:
    """The first rows of an order by their words alone: so those of a smaller share are among them.

    share 0.5   the rows that come at places 0 1 2 3 of 8
    share 0.25                               0 1
    """
    order = np.argsort(_shuffling(facts.dialogue[left], _SHARE_SEED), kind="stable")
    return np.sort(left[order[: max(1, round(share * len(left)))]])


def _alike(facts: Facts, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [P], [P]: places in `rows` with the same dialogue, the same prompt, or almost the same
    words."""
    near_first, near_second, _ = near_duplicates.similar_pairs(facts.signature[rows])
    same_dialogue = _neighbours(facts.dialogue[rows])
    same_prompt = _neighbours(facts.prompt[rows])
    prompted = facts.prompt[rows][same_prompt[0]] != 0
    return (
        np.concatenate([near_first, same_dialogue[0], same_prompt[0][prompted]]),
        np.concatenate([near_second, same_dialogue[1], same_prompt[1][prompted]]),
    )


def _neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of places with equal values, each value's places in a chain."""
    order = np.argsort(values, kind="stable")
    equal = np.flatnonzero(values[order[1:]] == values[order[:-1]])
    return order[equal], order[equal + 1]


def _groups(num_rows: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int64 [N], the least row that each row is connected with by pairs."""
    label = np.arange(num_rows)
    while True:
        least = np.minimum(label[first], label[second])
        new = label.copy()
        np.minimum.at(new, label[first], least)
        np.minimum.at(new, label[second], least)
        while (new[new] != new).any():
            new = new[new]
        if (new == label).all():
            return label
        label = new


def _chosen(groups: np.ndarray, dialogue: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """bool [N]: groups taken in random order, as long as they fit into `wanted` rows."""
    names, of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    keys = np.full(len(names), np.iinfo(np.uint64).max)
    np.minimum.at(keys, of_row, _shuffling(dialogue, seed))
    taken = np.zeros(len(names), bool)
    left = wanted
    for group in np.argsort(keys, kind="stable").tolist():
        if sizes[group] <= left:
            taken[group] = True
            left -= int(sizes[group])
        if not left:
            break
    return taken[of_row]


def _shuffling(values: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [N], random-looking and one-to-one in `values`, for each seed another."""
    start = near_duplicates.mixed(np.array([seed & (2**64 - 1)], np.uint64) + np.uint64(1))
    return near_duplicates.mixed(values ^ start)
