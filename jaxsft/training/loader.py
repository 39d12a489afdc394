"""Packed rows as sharded device batches: any step's batch from its number alone.

B: rows of a batch, T: sequence length.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxsft.config import Source
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack import balance, packing
from jaxsft.data.pack.balance import RowCost
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.data.pack.epochs import epochs_of
from jaxsft.data.pack.reweight import Reweighting
from jaxsft.data.pack.teacher_rows import teacher_rows
from jaxsft.training.batch import Batch


class Batches:
    """The batches of a run by step, a random-access source for grain.

    A process builds only the rows that its devices hold.

    Args:
        sources: what the cache was made of, with their weights or counts; None: one epoch is the
            whole cache.
        microbatches: that the step makes of a batch.
        cost: of a row, by which the rows of a batch are spread over devices and micro-batches;
            attention is counted for the windows that it names.
        reweighting: what gives targets weights of their own in what is minimised.
        numbered: tokens say which example they are from.
        stored_top_k: so many tokens that the data's teacher names for a target; None: not read.
        apart: names of the cache's sources, whose losses an evaluation keeps apart.
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
        microbatches: int = 1,
        cost: RowCost = balance.ALIKE,
        reweighting: Reweighting | None = None,
        numbered: bool = False,
        stored_top_k: int | None = None,
        apart: Sequence[str] = (),
    ):
        self._cache = cache
        self._lengths, self._supervised = np.asarray(cache.lengths), np.asarray(cache.supervised)
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._sharding = sharding
        self._microbatches = microbatches
        self._cost = cost
        self._reweighting, self._numbered = reweighting, numbered
        self._stored_top_k = stored_top_k
        self._row_shards = row_shards(sharding, (batch_size, sequence_length))
        self._local_rows = local_rows(sharding, (batch_size, sequence_length))
        self.epochs = epochs_of(
            cache, sources, sequence_length=sequence_length, batch_size=batch_size, seed=seed
        )
        self.apart = tuple(apart)
        # Whose loss is whose is kept only where there is a choice.
        mixed = sources is not None and len(sources) > 1
        self._labels = cache.sources if mixed or apart else None

    def build(self, step: int) -> tuple[dict[str, np.ndarray], BatchCounts]:
        """This process's rows of batch `step`, and counts of the whole batch."""
        plan, rows, costs_B = self._placed(step)
        local = packing.build_rows(
            self._cache.examples,
            plan,
            rows[self._local_rows].tolist(),
            self._sequence_length,
            self._labels,
            self._reweighting,
            self._numbered,
        )
        if self._stored_top_k is not None:
            mine = [plan.row(row) for row in rows[self._local_rows] if row != packing.PADDING_ROW]
            taught = self._cache.taught(np.concatenate([plan.order[:0], *mine]).tolist())
            local |= teacher_rows(taught, local["weights_BT"], self._stored_top_k)
        members = np.concatenate([plan.row(row) for row in rows if row != packing.PADDING_ROW])
        lengths = self._lengths[members]  # an example is a segment
        slots = self._batch_size * self._sequence_length
        counts = BatchCounts.of_segments(lengths, slots, self._cost.pair)
        most = balance.busiest(costs_B, self._row_shards, self._microbatches)
        mean = float(costs_B.sum()) / self._row_shards
        return local, dataclasses.replace(counts, cost=mean, busiest_cost=most)

    def members(self, step: int) -> list[np.ndarray]:
        """int64 indices of the examples in each row of batch `step`; none in a row of padding."""
        plan, rows, _ = self._placed(step)
        return [plan.row(row) if row != packing.PADDING_ROW else plan.order[:0] for row in rows]

    def batch(self, step: int) -> Batch:
        """The batch of any step again, on the devices."""
        with jax.transfer_guard_host_to_device("allow"):
            return self._on_devices(step)[0]

    def source_of(self, example: int) -> tuple[str, int]:
        """Its file and row."""
        return self._cache.source_of(example)

    def _placed(self, step: int) -> tuple[packing.PackPlan, np.ndarray, np.ndarray]:
        """The plan that batch `step` is of, and its rows' numbers and costs, spread evenly."""
        plan, rows = self.epochs.rows(step)
        costs_B = self._costs(plan, rows)
        order = balance.balanced(costs_B, self._row_shards, self._microbatches)
        return plan, rows[order], costs_B[order]

    def _costs(self, plan: packing.PackPlan, rows: np.ndarray) -> np.ndarray:
        """float64 [B], of the rows with these numbers."""
        members = [plan.row(row) if row != packing.PADDING_ROW else plan.order[:0] for row in rows]
        return self._cost.of_rows(
            self._sequence_length,
            [self._lengths[row] for row in members],
            [int(self._supervised[row].sum()) for row in members],
        )

    def stream(self, first_step: int, num_steps: int) -> Iterator[tuple[Batch, BatchCounts]]:
        """Batches of steps first_step ... num_steps - 1, built and put on the devices ahead."""
        steps = grain.MapDataset.range(first_step, num_steps).map(self._on_devices)
        # One thread: rows are gathered from memory, more would only fight for the interpreter.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
        yield from steps.to_iter_dataset(options)

    def _on_devices(self, step: int) -> tuple[Batch, BatchCounts]:
        local, counts = self.build(step)
        return Batch(**{name: self._global(array) for name, array in local.items()}), counts

    def _global(self, local_BTx: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            """What one device holds: whole rows, or some positions of them."""
            assert index is not None
            rows = np.arange(*index[0].indices(self._batch_size))
            return local_BTx[np.searchsorted(self._local_rows, rows), index[1]]

        shape = (self._batch_size, self._sequence_length, *local_BTx.shape[2:])
        return jax.make_array_from_callback(shape, self._sharding, part)


def row_shards(sharding: NamedSharding, shape: tuple[int, int]) -> int:
    """How many parts of the rows of a global [B, T] array there are, on all devices."""
    indices = sharding.devices_indices_map(shape).values()
    return len({index[0].indices(shape[0]) for index in indices if index})


def local_rows(sharding: NamedSharding, shape: tuple[int, int]) -> np.ndarray:
    """Row numbers of a global [B, T] array that this process's devices hold, rising."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    held = {row for index in indices if index for row in range(*index[0].indices(shape[0]))}
    return np.asarray(sorted(held))
