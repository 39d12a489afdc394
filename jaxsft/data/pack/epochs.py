"""The steps of a run: which packed rows each of them takes, epoch after epoch.

N: examples; S: sources.
"""

import bisect
import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

from jaxsft.config import Source, Train
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack import mixture, packing


def epochs_of(
    cache: Cache,
    sources: Sequence[Source] | None,
    *,
    sequence_length: int,
    batch_size: int,
    seed: int,
) -> "Epochs":
    """The epochs of a prepared cache.

    Args:
        sources: what it was made of, with their weights or counts; None: an epoch is all of it.
    """
    sizes = np.bincount(cache.sources, minlength=len(sources or ())).tolist()
    return Epochs(
        cache.lengths,
        cache.sources,
        sizes if sources is None else mixture.per_epoch(sources, sizes),
        sequence_length=sequence_length,
        batch_size=batch_size,
        seed=seed,
    )


def num_steps(train: Train, epochs: "Epochs") -> int:
    """Optimizer steps of the run."""
    return train.steps or epochs.steps_in(train.epochs or 0)


class Epochs:
    """The plan of any epoch and the rows of any step, as functions of the arguments alone.

    Every epoch sees each of its rows exactly once; its last batch is filled up with padding. Where
    sources are mixed by fractions, epochs may differ in their number of steps.

    Args:
        lengths: int [N], tokens of each example.
        source_of: int [N], the source of each example, rising.
        wanted: [S], examples of each source in an epoch.
        sequence_length: tokens of a packed row.
        batch_size: packed rows of one step.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        source_of: np.ndarray,
        wanted: Sequence[int],
        *,
        sequence_length: int,
        batch_size: int,
        seed: int,
    ):
        self._lengths = np.asarray(lengths)
        self._source_of = source_of
        self.wanted = tuple(wanted)
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._seed = seed
        self._lock = threading.Lock()
        self._first_steps = [0]  # of each epoch, as far as was asked
        self._newest: tuple[int, packing.PackPlan] | None = None
        plan = self.plan(0)
        self.num_rows = plan.num_rows  # of the first epoch, as is `fill`
        tokens = int(self._lengths[plan.order].sum())
        self.fill = tokens / (plan.num_rows * sequence_length)
        # A step is compiled for rows of at most so many: the next power of two is the same for
        # data that are nearly the same.
        most = int(np.diff(plan.row_offsets).max(initial=1)) + 1
        self.max_segments = 1 << (most - 1).bit_length()  # of any row, its padding being one

    def plan(self, epoch: int) -> packing.PackPlan:
        """Rows of an epoch; their members are indices of examples."""
        newest = self._newest
        if newest is None or newest[0] != epoch:
            members = mixture.members(self._source_of, self.wanted, self._seed, epoch)
            lengths = self._lengths[members]
            most = None if epoch == 0 else self.max_segments - 1
            plan = packing.plan_rows(lengths, self._sequence_length, self._seed, epoch, most)
            newest = epoch, dataclasses.replace(plan, order=members[plan.order])
            self._newest = newest
        return newest[1]

    def rows(self, step: int) -> tuple[packing.PackPlan, np.ndarray]:
        """The plan that `step` belongs to and the numbers of its rows; -1 is a row of padding."""
        epoch = self.epoch_of(step)
        plan = self.plan(epoch)
        first = (step - self._first_steps[epoch]) * self._batch_size
        rows = np.arange(first, first + self._batch_size)
        return plan, np.where(rows < plan.num_rows, rows, packing.PADDING_ROW)

    def steps_in(self, epochs: int) -> int:
        """Steps of the first `epochs` epochs."""
        with self._lock:  # the loader's thread asks too
            while len(self._first_steps) <= epochs:
                self._first_steps.append(self._first_steps[-1] + self._num_steps())
        return self._first_steps[epochs]

    def epoch_of(self, step: int) -> int:
        while self._first_steps[-1] <= step:
            self.steps_in(len(self._first_steps))
        return bisect.bisect_right(self._first_steps, step) - 1

    def epochs_at(self, done: int) -> float:
        """Epochs that the first `done` steps make."""
        epoch = self.epoch_of(done)
        first = self._first_steps[epoch]
        return epoch + (done - first) / (self.steps_in(epoch + 1) - first)

    def is_due(self, every_steps: int | None, times_per_epoch: int | None, done: int) -> bool:
        """Whether something falls due after the `done`th step; both None: never.

        Args:
            times_per_epoch: instead of every_steps; the step ends one of as many parts of its
                epoch, alike but for one step. 5 steps, twice an epoch: after 3 and 5; more often
                than there are steps: after each.
        """
        if times_per_epoch is None:
            return every_steps is not None and done % every_steps == 0
        epoch = self.epoch_of(done - 1)
        first, stop = self.steps_in(epoch), self.steps_in(epoch + 1)
        before, after = ((n - first) * times_per_epoch // (stop - first) for n in (done - 1, done))
        return after > before

    def sums_of_steps(self, values: np.ndarray) -> np.ndarray:
        """The sum of `values`, one for each example, over each step of the first epoch."""
        plan = self.plan(0)
        of_rows = np.add.reduceat(np.asarray(values)[plan.order], plan.row_offsets[:-1])
        return np.add.reduceat(of_rows, np.arange(0, plan.num_rows, self._batch_size))

    def _num_steps(self) -> int:
        """Steps of the epoch after those known."""
        sizes = np.bincount(self._source_of, minlength=len(self.wanted))
        known = len(self._first_steps) > 1
        counts = zip(self.wanted, sizes, strict=True)
        if known and all(wanted % max(size, 1) == 0 for wanted, size in counts):
            return self._first_steps[1]  # each epoch has the same lengths
        num_rows = self.plan(len(self._first_steps) - 1).num_rows
        return -(-num_rows // self._batch_size)
