"""Which examples share a packed row, and the rows as arrays.

R: rows of a plan; B: those of a batch; T: sequence_length; N: examples.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxsft.data.cache.store import IdsAndWeights
from jaxsft.data.pack import bins
from jaxsft.data.pack.reweight import Reweighting
from jaxsft.errors import DataError

PADDING_ROW = -1


@dataclasses.dataclass(frozen=True)
class PackPlan:
    """Row r holds the examples order[row_offsets[r] : row_offsets[r + 1]].

    order        4 0 2 1 3
    row_offsets  0 2 5      row 0 holds examples 4 and 0, row 1 holds 2, 1 and 3
    """

    order: np.ndarray  # int64 [N]
    row_offsets: np.ndarray  # int64 [R + 1]

    @property
    def num_rows(self) -> int:
        return len(self.row_offsets) - 1

    def row(self, index: int) -> np.ndarray:
        """int64 indices of the examples in the row, from left to right."""
        return self.order[self.row_offsets[index] : self.row_offsets[index + 1]]


def plan_rows(
    lengths: np.ndarray, sequence_length: int, seed: int, epoch: int, most: int | None = None
) -> PackPlan:
    """The packing of all examples at once, its rows in random order.

    The number of rows depends on the lengths alone. Which examples of equal length stand where,
    and the order of rows, are functions of (seed, epoch), the same on every platform.

    Args:
        most: examples of a row; what is above that goes to another row. None: as many as fit.

    Raises:
        DataError: a length is not in [1, sequence_length].
    """
    lengths = _checked(lengths, sequence_length)
    order = shuffled(len(lengths), seed, epoch, 0)
    order = order[np.argsort(-lengths[order], kind="stable")]
    bin_of, num_bins = bins.pack(lengths[order], sequence_length)
    if most is not None:
        bin_of, num_bins = bins.of_at_most(most, bin_of, num_bins)
    row_of_bin = shuffled(num_bins, seed, epoch, 1)
    rows = row_of_bin[bin_of]
    counts = np.bincount(rows, minlength=num_bins)
    return PackPlan(order[np.argsort(rows, kind="stable")], _offsets(counts))


def num_rows(lengths: np.ndarray, sequence_length: int) -> int:
    """Rows of every plan for these lengths."""
    lengths = _checked(lengths, sequence_length)
    return bins.pack(np.sort(lengths)[::-1], sequence_length)[1]


def one_per_row(lengths: np.ndarray) -> PackPlan:
    """The unpacked plan: example i alone in row i."""
    return PackPlan(np.arange(len(lengths)), np.arange(len(lengths) + 1))


def build_rows(
    get_examples: Callable[[Sequence[int]], Sequence[IdsAndWeights]],
    plan: PackPlan,
    rows: Sequence[int],
    sequence_length: int,
    labels_N: np.ndarray | None = None,
    reweighting: Reweighting | None = None,
    numbered: bool = False,
) -> dict[str, np.ndarray]:
    """The rows as int32 tokens_BT, targets_BT, segments_BT, positions_BT and float32 weights_BT.

    Two examples, 5 6 7 with weights 0 0 1 and 8 9 with weights 0 1, in a row of 7:

        tokens     5  6  7  8  9  0  0
        targets    6  7  0  9  0  0  0     the next token of the same example
        weights    0  1  0  1  0  0  0     of the target
        segments   1  1  1  2  2  0  0     0 is padding
        positions  0  1  2  0  1  0  0

    Args:
        get_examples: (ids, weights) of each example index.
        rows: indices into the plan; -1 (PADDING_ROW) is a row of padding.
        labels_N: int, of each example; where given, `sources_BT` has that of each token.
        reweighting: where given, `objective_weights_BT` has the weights that it makes.
        numbered: `examples_BT` has the index of each token's example.

    Raises:
        DataError: a row's examples are together longer than sequence_length.
    """
    members = [plan.row(row) if row != PADDING_ROW else plan.order[:0] for row in rows]
    indices = np.concatenate([plan.order[:0], *members])
    ids, weights = zip(*get_examples(indices.tolist()), strict=True) if len(indices) else ((), ())
    numbers = np.array([len(row) for row in members], np.int64)
    lengths = np.array([len(example) for example in ids], np.int64)
    # Padding stands behind each row's examples like one more example, so that rows are one text.
    behind = np.cumsum(numbers)
    pads = _pads(members, numbers, lengths, sequence_length)
    lengths = np.insert(lengths, behind, pads)
    last = np.cumsum(lengths) - 1  # that of a part of no length is the one before it
    tokens = _joined(ids, behind, pads, np.int32)
    segments, positions = _segments(numbers, lengths)
    batch = {
        "tokens_BT": tokens,
        "targets_BT": _next(tokens, last),
        "segments_BT": segments,
        "positions_BT": positions,
        "weights_BT": _next(_joined(weights, behind, pads, np.float32), last),
    }
    if reweighting is not None:
        own = reweighting.weights(indices, weights)
        batch["objective_weights_BT"] = _next(_joined(own, behind, pads, np.float32), last)
    if labels_N is not None:
        batch["sources_BT"] = _by_token(labels_N[indices], behind, lengths)
    if numbered:
        batch["examples_BT"] = _by_token(indices, behind, lengths)
    return {name: array.reshape(len(rows), sequence_length) for name, array in batch.items()}


def _pads(
    members: Sequence[np.ndarray], numbers: np.ndarray, lengths: np.ndarray, sequence_length: int
) -> np.ndarray:
    """The length of each row's padding, from the numbers of examples in rows and their lengths.

    Raises:
        DataError: a row's examples are together longer than sequence_length.
    """
    used = np.add.reduceat(np.append(lengths, 0), np.cumsum(numbers) - numbers) * (numbers > 0)
    pads = sequence_length - used
    if (pads < 0).any():
        place = int((pads < 0).argmax())
        raise DataError(
            f"examples {members[place].tolist()} of one row have {used[place]} tokens together, "
            f"more than sequence_length={sequence_length}"
        )
    return pads


def _segments(numbers: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments and positions of all rows, one after another, from the examples in each row and the
    lengths of all parts, the padding of each row being the last of its parts."""
    segment_of = np.array([n for number in numbers for n in (*range(1, number + 1), 0)], np.int32)
    segments = np.repeat(segment_of, lengths)
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(segments), dtype=np.int32) - np.repeat(
        starts.astype(np.int32), lengths
    )
    positions *= segments > 0
    return segments, positions


def _joined(
    parts: Sequence[np.ndarray], behind: np.ndarray, pads: np.ndarray, dtype: Any
) -> np.ndarray:
    """All parts one after another, with pads[r] zeros after the first behind[r] of them."""
    zeros = np.zeros(max(pads, default=0), dtype)
    pieces = list(parts)
    for place, pad in zip(behind.tolist()[::-1], pads.tolist()[::-1], strict=True):
        pieces.insert(place, zeros[:pad])
    return np.concatenate([zeros[:0], *pieces], dtype=dtype)


def _by_token(of_example: np.ndarray, behind: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int32, what an example has, at each of its tokens; 0 in the padding.

    Args:
        lengths: of all parts, the padding of each row being the last of its parts.
    """
    return np.repeat(np.insert(of_example, behind, 0).astype(np.int32), lengths)


def _next(values: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The value after each one; 0 where `last` says that an example or a row ends."""
    following = np.empty_like(values)
    following[:-1] = values[1:]
    following[last] = 0
    return following


def _checked(lengths: np.ndarray, sequence_length: int) -> np.ndarray:
    lengths = np.asarray(lengths, np.int64)
    wrong = np.flatnonzero((lengths < 1) | (lengths > sequence_length))
    if len(wrong):
        raise DataError(
            f"example {wrong[0]} has {lengths[wrong[0]]} tokens; a row of "
            f"sequence_length={sequence_length} holds 1 to {sequence_length}"
        )
    return lengths


def shuffled(count: int, seed: int, epoch: int, purpose: int) -> np.ndarray:
    """A permutation from raw generator bits, whose stream numpy never changes (NEP 19)."""
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch, purpose]))
    return np.argsort(np.asarray(bits.random_raw(count)), kind="stable")


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
