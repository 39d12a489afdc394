"""What the host knows of one global batch. N: segments."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class BatchCounts:
    """What the host knows of one global batch."""

    tokens: int  # not padding
    slots: int  # rows x sequence length
    # (query, key) pairs that a head of a layer must form, by the layer's window.
    attention_pairs: Mapping[int | None, int]
    examples: int
    cost: float = 0.0  # estimated operations, the mean of all devices
    busiest_cost: float = 0.0  # those of the busiest device of each micro-batch

    @classmethod
    def of_segments(
        cls, lengths_N: np.ndarray, slots: int, windows: Iterable[int | None]
    ) -> "BatchCounts":
        """Counts of segments of these lengths, for a model whose layers have these windows."""
        return cls(
            tokens=int(lengths_N.sum()),
            slots=slots,
            attention_pairs={window: int(pairs_of(lengths_N, window).sum()) for window in windows},
            examples=len(lengths_N),
        )

    def __add__(self, other: "BatchCounts") -> "BatchCounts":
        pairs = {w: n + other.attention_pairs[w] for w, n in self.attention_pairs.items()}
        return BatchCounts(
            self.tokens + other.tokens,
            self.slots + other.slots,
            pairs,
            self.examples + other.examples,
            self.cost + other.cost,
            self.busiest_cost + other.busiest_cost,
        )


def pairs_of(lengths_N: np.ndarray, window: int | None) -> np.ndarray:
    """int [N], (query, key) pairs of each segment: token i sees i + 1 tokens, or `window`.

    lengths     2   5
    window 3    3  12   = 1 + 2,  1 + 2 + 3 + 3 + 3
    """
    seen_N = lengths_N if window is None else np.minimum(lengths_N, window)
    return seen_N * (seen_N + 1) // 2 + (lengths_N - seen_N) * seen_N
