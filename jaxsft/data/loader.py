"""Packed rows as sharded device batches: any step's batch from its number alone.

B: rows of a batch, T: sequence length.
"""

from collections.abc import Iterator

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxsft.data import pack
from jaxsft.data.prepare import Cache
from jaxsft.loss import Batch
from jaxsft.metrics import BatchCounts


class Batches:
    """The batches of a run by step, a random-access source for grain.

    Each row of the plan is seen exactly once an epoch: the last batch of an epoch is filled up with
    rows of padding. A process builds only the rows that its devices hold.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        sequence_length: int,
        batch_size: int,
        seed: int,
        sharding: NamedSharding,
    ):
        self._cache = cache
        self._lengths = np.asarray(cache.lengths)
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._seed = seed
        self._sharding = sharding
        self._local_rows = local_rows(sharding, (batch_size, sequence_length))
        self._epoch = -1
        self._plan = self._epoch_plan(0)
        self.num_rows = self._plan.num_rows
        self.steps_per_epoch = -(-self.num_rows // batch_size)
        self.fill = float(self._lengths.sum()) / (self.num_rows * sequence_length)

    def rows(self, step: int) -> np.ndarray:
        """The plan's rows in batch `step`; -1 is a row of padding."""
        first = step % self.steps_per_epoch * self._batch_size
        rows = np.arange(first, first + self._batch_size)
        return np.where(rows < self.num_rows, rows, pack.PADDING_ROW)

    def build(self, step: int) -> tuple[dict[str, np.ndarray], BatchCounts]:
        """This process's rows of batch `step`, and counts of the whole batch."""
        plan = self._epoch_plan(step // self.steps_per_epoch)
        rows = self.rows(step)
        local = pack.build_rows(
            self._cache.examples, plan, rows[self._local_rows].tolist(), self._sequence_length
        )
        members = np.concatenate([plan.row(row) for row in rows if row != pack.PADDING_ROW])
        lengths = self._lengths[members]
        counts = BatchCounts(
            tokens=int(lengths.sum()),
            slots=self._batch_size * self._sequence_length,
            attention_pairs=int((lengths * (lengths + 1) // 2).sum()),
            examples=len(lengths),
        )
        return local, counts

    def stream(self, first_step: int, num_steps: int) -> Iterator[tuple[Batch, BatchCounts]]:
        """Device batches of steps first_step ... num_steps - 1, built ahead in a thread."""
        steps = grain.MapDataset.range(first_step, num_steps).map(self.build)
        # One thread: rows are gathered from memory, more would only fight for the interpreter.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        for local, counts in steps.to_iter_dataset(options):
            yield self._place(local), counts

    def _place(self, local: dict[str, np.ndarray]) -> Batch:
        shape = (self._batch_size, self._sequence_length)
        return Batch(
            **{
                name: jax.make_array_from_process_local_data(self._sharding, array, shape)
                for name, array in local.items()
            }
        )

    def _epoch_plan(self, epoch: int) -> pack.Plan:
        if epoch != self._epoch:
            self._epoch = epoch
            self._plan = pack.plan_rows(self._lengths, self._sequence_length, self._seed, epoch)
        return self._plan


def local_rows(sharding: NamedSharding, shape: tuple[int, int]) -> np.ndarray:
    """Row numbers of a global [B, T] array that this process's devices hold, rising."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    held = {row for index in indices if index for row in range(*index[0].indices(shape[0]))}
    return np.asarray(sorted(held))
