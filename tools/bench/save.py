"""What a save costs, in the processor's time."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from bench.ours import Ours
from jaxsft.devices import digest
from jaxsft.rundir.checkpoint import saving
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.training.saved_state import saved_of


@dataclasses.dataclass(frozen=True)
class Found:
    """Medians; seconds of the processor where nothing else is said."""

    state_bytes: int
    step_seconds: float
    blocked_seconds: float  # until the loop goes on
    blocked_wall_seconds: float
    save_seconds: float  # until it is committed, read back, and the one before deleted
    digest_seconds: float  # of that, both times
    device_digest_seconds: float
    blocked_share_of_step: float
    digest_share_of_save: float


def measure(ours: Ours, directory: Path, rounds: int) -> Found:
    """The first save, which compiles and finds nothing to delete, is left out."""
    store = CheckpointStore(directory, keep=1)
    ours.run(1)
    found = []
    for number in range(rounds + 1):
        step = _processor(lambda: ours.run(1))
        state = saved_of(ours.state)
        whole, begun = time.process_time(), time.perf_counter()
        store.save(number, state, Notes())
        blocked = time.process_time() - whole
        wall = time.perf_counter() - begun
        store.wait()
        saved = time.process_time() - whole
        on_device = _processor(lambda state=state: saving.digests_of_finite(state, 0))
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        begun = time.thread_time()  # nothing else counts that still ends in the background
        for leaf in leaves:
            digest.of_part(leaf, (0,) * leaf.ndim, leaf.shape)
        read_back = time.thread_time() - begun
        found.append((step, blocked, wall, saved, on_device + read_back, on_device))
    middle = [statistics.median(values) for values in zip(*found[1:], strict=True)]
    step, blocked, wall, saved, digests, on_device = middle
    return Found(
        state_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        step_seconds=step,
        blocked_seconds=blocked,
        blocked_wall_seconds=wall,
        save_seconds=saved,
        digest_seconds=digests,
        device_digest_seconds=on_device,
        blocked_share_of_step=blocked / step,
        digest_share_of_save=digests / saved,
    )


def _processor(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before
