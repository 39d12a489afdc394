"""The time of a program on the device, and how far apart two results are."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_TRIES = 3


def milliseconds(run: Callable[[], Any], num_rounds: int) -> float:
    """Of one of `num_rounds` calls that are dispatched together; the best of some tries."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(_TRIES):
        since = time.perf_counter()
        out = None
        for _ in range(num_rounds):
            out = run()
        jax.block_until_ready(out)
        taken.append((time.perf_counter() - since) * 1e3 / num_rounds)
    return min(taken)


def relative(expected: np.ndarray, found: np.ndarray) -> float:
    """The norm of the difference over that of the expected."""
    return float(np.linalg.norm(expected - found) / np.linalg.norm(expected))
