"""Packed rows as sharded device batches: any step's batch from its number alone.

B: rows of a batch, T: sequence length.
"""

from collections.abc import Collection, Iterator, Sequence

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxsft.config import Source
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack import packing
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.data.pack.epochs import epochs_of
from jaxsft.training.batch import Batch


class Batches:
    """The batches of a run by step, a random-access source for grain.

    A process builds only the rows that its devices hold.

    Args:
        sources: what the cache was made of, with their weights or counts; None: one epoch is the
            whole cache.
        windows: those of the model's layers, whose attention is counted.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        sources: Sequence[Source] | None = None,
        sequence_length: int,
        batch_size: int,
        seed: int,
        sharding: NamedSharding,
        windows: Collection[int | None] = (None,),
    ):
        self._cache = cache
        self._lengths = np.asarray(cache.lengths)
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._sharding = sharding
        self._windows = frozenset(windows)
        self._local_rows = local_rows(sharding, (batch_size, sequence_length))
        self.epochs = epochs_of(
            cache, sources, sequence_length=sequence_length, batch_size=batch_size, seed=seed
        )
        # Whose loss is whose is kept only where there is a choice.
        self._labels = cache.sources if sources is not None and len(sources) > 1 else None

    def build(self, step: int) -> tuple[dict[str, np.ndarray], BatchCounts]:
        """This process's rows of batch `step`, and counts of the whole batch."""
        plan, rows = self.epochs.rows(step)
        local = packing.build_rows(
            self._cache.examples,
            plan,
            rows[self._local_rows].tolist(),
            self._sequence_length,
            self._labels,
        )
        members = np.concatenate([plan.row(row) for row in rows if row != packing.PADDING_ROW])
        lengths = self._lengths[members]  # an example is a segment
        slots = self._batch_size * self._sequence_length
        return local, BatchCounts.of_segments(lengths, slots, self._windows)

    def stream(self, first_step: int, num_steps: int) -> Iterator[tuple[Batch, BatchCounts]]:
        """Batches of steps first_step ... num_steps - 1, built and put on the devices ahead."""
        steps = grain.MapDataset.range(first_step, num_steps).map(self._on_devices)
        # One thread: rows are gathered from memory, more would only fight for the interpreter.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        yield from steps.to_iter_dataset(options)

    def _on_devices(self, step: int) -> tuple[Batch, BatchCounts]:
        local, counts = self.build(step)
        return Batch(**{name: self._global(array) for name, array in local.items()}), counts

    def _global(self, local_BT: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            """What one device holds: whole rows, or some positions of them."""
            assert index is not None
            rows = np.arange(*index[0].indices(self._batch_size))
            return local_BT[np.searchsorted(self._local_rows, rows), index[1]]

        shape = (self._batch_size, self._sequence_length)
        return jax.make_array_from_callback(shape, self._sharding, part)


def local_rows(sharding: NamedSharding, shape: tuple[int, int]) -> np.ndarray:
    """Row numbers of a global [B, T] array that this process's devices hold, rising."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    held = {row for index in indices if index for row in range(*index[0].indices(shape[0]))}
    return np.asarray(sorted(held))
