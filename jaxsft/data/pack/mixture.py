"""Which examples an epoch sees, when sources are mixed by weight or count.

N: examples; S: sources.
"""

from collections.abc import Sequence

import numpy as np

from jaxsft.config import Source
from jaxsft.data.pack.packing import shuffled
from jaxsft.errors import DataError

MOST_EXAMPLES = 2**31  # in an epoch: their order takes 8 bytes each
_PURPOSE = 2  # of the random numbers; pack.py has 0 and 1


def per_epoch(sources: Sequence[Source], sizes: Sequence[int]) -> list[int]:
    """Examples that an epoch sees of each source, from its weight or count.

    Raises:
        DataError: a weight leaves a source without a single example, or it has none to give.
    """
    wanted = []
    for source, size in zip(sources, sizes, strict=True):
        count = source.count if source.count is not None else round((source.weight or 1) * size)
        if not size and source.count is not None:
            raise DataError(f"{source.path}: count={source.count} of a source without examples")
        if size and not count:
            raise DataError(
                f"{source.path}: weight={source.weight} of {size} examples is none at all; "
                f"use at least {1 / size:.2g}"
            )
        if count > MOST_EXAMPLES:
            raise DataError(
                f"{source.path}: weight={source.weight}, count={source.count} of {size} examples"
                f" make {count} in an epoch; at most {MOST_EXAMPLES}"
            )
        wanted.append(count)
    return wanted


def members(source_of: np.ndarray, wanted: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """The examples of an epoch, by source.

    Each source is an endless row of its own shuffled rounds, and each epoch takes the next `wanted`
    of it: so no example is seen twice before all were seen once, over epochs too.

        size 4, wanted 3   round 0: 2 0 3 1    round 1: 1 2 0 3
        epoch 0: 2 0 3     epoch 1: 1 | 1 2    epoch 2: 0 3 | ...

    Args:
        source_of: int [N], the source of each example, rising.
        wanted: [S], examples in an epoch.
    """
    starts = np.searchsorted(source_of, np.arange(len(wanted) + 1))
    taken = []
    for source, count in enumerate(wanted):
        first, size = int(starts[source]), int(starts[source + 1] - starts[source])
        if count == size:  # every epoch is one whole round, whose order the plan shuffles anyway
            taken.append(np.arange(first, first + size))
            continue
        places = np.arange(epoch * count, (epoch + 1) * count)
        rounds = np.unique(places // size).tolist()
        orders = np.concatenate([shuffled(size, seed, n, _PURPOSE + source) for n in rounds])
        taken.append(first + orders[places - rounds[0] * size])
    return np.concatenate(taken)
