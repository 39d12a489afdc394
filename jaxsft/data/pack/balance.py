"""The order of a batch's rows in which no device waits long for another.

A step ends with its busiest device, and so does each of its micro-batches: the rows of one device
should cost what those of the others do. Rows change places within their batch alone, which changes
its loss by rounding.

B: rows of a batch; D: devices that hold rows of their own; A: micro-batches; R: rows of a device in
a micro-batch; N: segments.
"""

import dataclasses
import heapq
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsft.data.pack.counts import pairs_of


@dataclasses.dataclass(frozen=True)
class RowCost:
    """Operations of a packed row, by what it holds."""

    slot: float  # a position, padding too
    supervised: float  # a target
    pair: Mapping[int | None, float]  # a (query, key) pair, by the layers' window

    def of_rows(
        self, length: int, segments: Sequence[np.ndarray], supervised: Sequence[int]
    ) -> np.ndarray:
        """float64 [B], the cost of each row of `length` positions.

        Args:
            segments: the lengths of each row's segments.
            supervised: the targets of each row.
        """
        row_of_N = np.repeat(np.arange(len(segments)), [len(row) for row in segments])
        lengths_N = np.concatenate([np.zeros(0, np.int64), *segments])
        costs_B = self.slot * length + self.supervised * np.asarray(supervised, np.float64)
        for window, cost in self.pair.items():
            pairs_N = cost * pairs_of(lengths_N, window)
            costs_B += np.bincount(row_of_N, pairs_N, len(segments))
        return costs_B


ALIKE = RowCost(slot=1.0, supervised=0.0, pair={None: 0.0})  # all rows


def balanced(costs_B: np.ndarray, devices: int, microbatches: int) -> np.ndarray:
    """int64 [B], which row comes to each place, where `busiest` is least; as they are if it isn't
    less.

    The costliest rows make a micro-batch together, the next ones the next: rows that run at once
    are alike. Within it each row, the costliest first, goes to the device that has least so far.
    """
    in_order = np.arange(len(costs_B))
    falling = np.argsort(-costs_B, kind="stable").reshape(microbatches, -1)
    places_DRA = in_order.reshape(devices, -1, microbatches)  # as step.gradient_sums splits them
    order = np.empty_like(in_order)
    for part, rows in enumerate(falling):
        for device, held in enumerate(_dealt(rows, costs_B, devices)):
            order[places_DRA[device, :, part]] = sorted(held)
    old, new = (busiest(costs_B[o], devices, microbatches) for o in (in_order, order))
    return order if new < old * (1 - 1e-9) else in_order


def _dealt(rows: np.ndarray, costs_B: np.ndarray, devices: int) -> list[list[int]]:
    """As many of the rows for each device; the rows' costs fall."""
    hands: list[list[int]] = [[] for _ in range(devices)]
    least = [(0.0, device) for device in range(devices)]  # a heap
    for row in rows.tolist():
        cost, device = heapq.heappop(least)
        hands[device].append(row)
        if len(hands[device]) < len(rows) // devices:
            heapq.heappush(least, (cost + float(costs_B[row]), device))
    return hands


def busiest(costs_B: np.ndarray, devices: int, microbatches: int) -> float:
    """The cost of the busiest device of each micro-batch, summed; rows in their places."""
    costs_DRA = costs_B.reshape(devices, -1, microbatches)
    return float(costs_DRA.sum(axis=1).max(axis=0).sum())
