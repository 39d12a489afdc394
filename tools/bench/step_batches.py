"""Batches to measure with: those of the config's data, or random tokens in packed rows.

B: rows of a batch, T: sequence length.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from jaxsft.config import Config
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.pack import packing
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.data.pack.reweight import Reweighting
from jaxsft.model import settings
from jaxsft.terminal.console import Console
from jaxsft.training import inputs, mesh_program, over_mesh
from jaxsft.training.batch import Batch
from jaxsft.training.flops import row_cost
from jaxsft.training.loader import Batches

Host = dict[str, np.ndarray]  # the arrays [B, T] of a Batch by name


@dataclasses.dataclass(frozen=True)
class BenchBatches:
    """The batches of any number of steps, the same ones each time they are asked for."""

    stream: Callable[[], Iterator[tuple[Batch, BatchCounts]]]  # on the devices
    host: Callable[[int], Host]  # of a step
    description: str
    max_segments: int  # of a row, its padding being one of them


def of_config(config: Config, base: Pretrained, mesh: Mesh) -> BenchBatches:
    """Packed rows of config.data.train, prepared where they are not."""
    sources = dataclasses.replace(config, data=dataclasses.replace(config.data, eval=()))
    cache = inputs.prepare_data(sources, base, Console(speaks=False)).train
    batches = Batches(
        cache,
        sources=config.data.train,
        sequence_length=config.data.sequence_length,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        sharding=over_mesh.batch_sharding(mesh),
        microbatches=config.train.microbatches,
        cost=row_cost(base.settings),
        reweighting=Reweighting.of(config.loss, config.data.train, cache.sources),
        numbered=mesh_program.noise_seed(config) is not None,
    )
    fill = batches.epochs.fill
    return BenchBatches(
        stream=lambda: batches.stream(0, 10**9),
        host=lambda number: batches.build(number)[0],
        description=f"{config.data.train[0].path.rpartition('/')[2]}, rows {fill:.1%} full",
        max_segments=batches.epochs.max_segments,
    )


def synthetic(
    config: Config, s: settings.DecoderSettings, mesh: Mesh, num_segments: int
) -> BenchBatches:
    """One full batch of random tokens, again and again: equal segments, all tokens supervised."""
    host, counts = random_batch(config, s, num_segments)
    sharding = over_mesh.batch_sharding(mesh)
    placed = Batch(**jax.device_put(host, sharding))
    return BenchBatches(
        stream=lambda: itertools.repeat((placed, counts)),
        host=lambda number: host,
        description=f"random tokens, {num_segments} segments a row, all supervised",
        max_segments=max(2, num_segments),
    )


def random_batch(
    config: Config, s: settings.DecoderSettings, num_segments: int
) -> tuple[Host, BatchCounts]:
    rows, length = config.train.batch_size, config.data.sequence_length
    bounds = np.linspace(0, length, num_segments + 1).astype(int)
    lengths = np.tile(np.diff(bounds), rows)
    rng = np.random.default_rng(config.train.seed)
    examples = [
        (rng.integers(0, s.num_tokens, n).astype(np.int32), np.ones(n, np.float32))
        for n in lengths.tolist()
    ]
    order = np.arange(len(lengths))
    plan = packing.PackPlan(order, np.arange(rows + 1) * num_segments)
    host = packing.build_rows(
        lambda members: [examples[i] for i in members],
        plan,
        list(range(rows)),
        length,
        reweighting=Reweighting.of(config.loss, config.data.train, np.zeros(len(order), int)),
        numbered=mesh_program.noise_seed(config) is not None,
    )
    windows = {kind.window for kind in s.kinds()}
    return host, BatchCounts.of_segments(lengths, rows * length, windows)
