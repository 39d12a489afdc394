"""A run's real training step compiled for named devices: memory, work, communication, time."""

import dataclasses
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsft import mesh as mesh_lib
from jaxsft import program
from jaxsft.chips import Chip
from jaxsft.config import Config
from jaxsft.flops import training_flops
from jaxsft.kernels.cross_entropy_chunks import chunk_tokens
from jaxsft.metrics import BatchCounts
from jaxsft.model import settings
from jaxsft.plan import cost, hlo, memory
from jaxsft.plan.memory import Memory
from jaxsft.plan.topology import Topology
from jaxsft.program import Program

# What well-tuned programs reach of the peaks: for an estimate, beside the bound that none passes.
MATMUL_SHARE, MEMORY_SHARE, LINK_SHARE = 0.7, 0.8, 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """What a batch holds. Without prepared data: full rows of one segment, all of it supervised."""

    tokens: float  # share of the slots that are no padding
    supervised: float  # share of the slots with a loss
    segment_length: float  # mean, in tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Communication:
    kind: str
    axis: str  # of the mesh; several joined by x
    bytes: float  # that a chip sends in a step
    count: float  # operations in a step
    seconds: float | None  # at the peak of the links, or of the network where it leaves a slice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of one step. No run is faster than the greatest of the first three."""

    matmuls: float
    memory: float
    communication: float
    estimate: float  # with the shares of the peaks that well-tuned programs reach

    @property
    def bound(self) -> str:
        named = {name: getattr(self, name) for name in ("matmuls", "memory", "communication")}
        return max(named, key=lambda name: named[name])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one training step; all per chip but for tokens."""

    mesh: dict[str, int]
    num_parameters: int
    state_bytes: dict[str, float]  # parameters, optimizer, gradients
    memory: Memory
    flops: float  # that the model needs: no recomputation, no padding
    matmul_flops: float  # that are computed
    bytes_moved: float
    collectives: tuple[Communication, ...]
    seconds: Seconds | None  # None: a device whose rates are not known
    mfu: float | None  # by that time
    tokens: float  # of the global batch
    compile_seconds: float


def make(config: Config, base: settings.Decoder, topology: Topology, rows: Rows) -> Estimate:
    """Compiles the step that `train` would run there.

    Raises:
        ConfigError: model, mesh and batch don't fit each other.
    """
    num_steps = config.train.steps or config.optim.warmup_steps + 1  # changes a constant only
    mesh = program.checked_mesh(config, base, topology.devices)
    built = program.build(config, base, num_steps, mesh)
    train, length = config.train, config.data.sequence_length
    started = time.monotonic()
    compiled = program.compile_train_step(built, config)
    compile_seconds = time.monotonic() - started
    parsed = hlo.parse(compiled.as_text(), _head_chunks(config, built, rows))
    chip = topology.chip
    limit = int(chip.memory_bytes) if chip else memory.limit_here()
    slots = train.batch_size * length
    tokens = rows.tokens * slots
    num_segments = max(1, round(tokens / rows.segment_length))
    segments = np.full(num_segments, tokens / num_segments)
    windows = {kind.window for kind in base.kinds()}
    counts = BatchCounts.of_segments(segments, slots, windows)
    flops = training_flops(built.settings, counts, rows.supervised * slots) / topology.num_chips
    computed, moved = cost.matmul_flops(parsed), cost.bytes_moved(parsed)
    collectives = tuple(
        _communication(one, built.mesh, topology) for one in cost.collectives(parsed)
    )
    seconds = None if chip is None else _seconds(chip, computed, moved, collectives)
    return Estimate(
        mesh=dict(built.mesh.shape),
        num_parameters=built.num_parameters,
        state_bytes=_state_bytes(built),
        memory=memory.of(compiled, limit),
        flops=flops,
        matmul_flops=computed,
        bytes_moved=moved,
        collectives=collectives,
        seconds=seconds,
        mfu=flops / (chip.bf16_flops * seconds.estimate) if chip and seconds else None,
        tokens=tokens,
        compile_seconds=compile_seconds,
    )


def _head_chunks(config: Config, built: Program, rows: Rows) -> float:
    """How often the loop over supervised tokens runs, whose length the data decide."""
    sizes = built.mesh.shape
    parts = mesh_lib.parts("batch", sizes) * mesh_lib.parts("sequence", sizes)
    slots = config.train.batch_size * config.data.sequence_length
    local = max(1, slots // (config.train.microbatches * parts))
    return np.ceil(rows.supervised * local / chunk_tokens(local))


def _state_bytes(built: Program) -> dict[str, float]:
    """Per device; gradients lie where their parameters lie."""

    def total(tree: Any, placement: Any, itemsize: int | None = None) -> float:
        sizes = jax.tree.map(
            lambda leaf, sharding: float(
                np.prod(sharding.shard_shape(leaf.shape)) * (itemsize or leaf.dtype.itemsize)
            ),
            tree,
            placement,
        )
        return sum(jax.tree.leaves(sizes))

    shapes, placement = built.shapes, built.placement
    gradients = built.recipe.gradient_dtype
    return {
        "parameters": total(shapes.params, placement.params),
        "optimizer": total(shapes.opt_state, placement.opt_state),
        "gradients": total(shapes.params, placement.params, jnp.dtype(gradients).itemsize),
    }


def _communication(one: cost.Collective, mesh: Mesh, topology: Topology) -> Communication:
    crosses = one.across_slices or (topology.num_slices > 1 and _crosses(one.groups, mesh))
    seconds = None
    if topology.chip is not None:
        chip = topology.chip
        seconds = one.bytes / (chip.network_bandwidth if crosses else chip.link_bandwidth)
    return Communication(
        kind=one.kind,
        axis="data" if one.across_slices else axis_of(one.groups, mesh),
        bytes=one.bytes,
        count=one.count,
        seconds=seconds,
    )


def _crosses(groups: tuple[tuple[int, ...], ...], mesh: Mesh) -> bool:
    """Whether a group has devices of several slices, or of several boxes of GPUs."""
    units = [
        (getattr(one, "slice_index", 0), 0 if one.platform == "tpu" else one.process_index)
        for one in mesh.devices.flat
    ]
    groups = groups or (tuple(range(len(units))),)
    return any(len({units[number] for number in group}) > 1 for group in groups)


def axis_of(groups: tuple[tuple[int, ...], ...], mesh: Mesh) -> str:
    """The mesh axes over which these groups of devices lie."""
    wanted = {frozenset(group) for group in groups}
    if not wanted:
        wanted = {frozenset(range(mesh.size))}
    numbers = np.arange(mesh.size).reshape(mesh.devices.shape)
    used = [axis for axis, size in mesh.shape.items() if size > 1]
    for count in range(1, len(used) + 1):
        for axes in itertools.combinations(used, count):
            places = [mesh.axis_names.index(axis) for axis in axes]
            moved = np.moveaxis(numbers, places, range(-count, 0))
            size = int(np.prod([mesh.shape[axis] for axis in axes]))
            if {frozenset(row) for row in moved.reshape(-1, size).tolist()} == wanted:
                return " x ".join(axes)
    inside = [axis for axis in used if _neighbours(wanted, numbers, mesh.axis_names.index(axis))]
    return inside[0] if inside else "devices"


def _neighbours(groups: set[frozenset[int]], numbers: np.ndarray, place: int) -> bool:
    """Whether each group, such as the two ends of a permutation, differs in one axis only."""
    coordinates = {int(n): c for c, n in np.ndenumerate(numbers)}
    for group in groups:
        columns = list(zip(*(coordinates[number] for number in group), strict=True))
        if any(len(set(column)) > 1 for at, column in enumerate(columns) if at != place):
            return False
    return True


def _seconds(
    chip: Chip, computed: float, moved: float, collectives: tuple[Communication, ...]
) -> Seconds:
    matmuls, moving = computed / chip.bf16_flops, moved / chip.memory_bandwidth
    sending = sum(one.seconds or 0.0 for one in collectives)
    longest = max(matmuls / MATMUL_SHARE, moving / MEMORY_SHARE, sending / LINK_SHARE)
    return Seconds(matmuls=matmuls, memory=moving, communication=sending, estimate=longest)
