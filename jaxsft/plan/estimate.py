"""A run's real training step compiled for named devices: memory, work, communication, time."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsft.config import Config
from jaxsft.devices import mesh as mesh_lib
from jaxsft.devices.chips import Chip
from jaxsft.kernels.experts.tiles import TILES_SCOPE
from jaxsft.kernels.loss.chunks import chunk_tokens
from jaxsft.model import settings
from jaxsft.model.attention.choice import kind_of
from jaxsft.plan import communication, cost, hlo, kernels, memory, remat_choice
from jaxsft.plan import expert_rows as experts
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.communication import Communication
from jaxsft.plan.efficiencies import expected_seconds
from jaxsft.plan.expert_rows import ExpertRows
from jaxsft.plan.kernel_flops import Skipped
from jaxsft.plan.kernels import Kernel
from jaxsft.plan.memory import Memory
from jaxsft.plan.topology import Topology
from jaxsft.training import mesh_program
from jaxsft.training.flops import training_flops
from jaxsft.training.mesh_program import MeshProgram
from jaxsft.training.parameters import StoredDtypes
from jaxsft.training.schedule import shortest_run
from jaxsft.training.teacher import Teacher


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
    state_bytes: dict[str, float]  # parameters, optimizer, gradients, teacher
    memory: Memory
    remat: str  # its policy
    remat_why: str
    flops: float  # that the model needs: no recomputation, no padding
    matmul_flops: float  # that are computed
    bytes_moved: float
    collectives: tuple[Communication, ...]
    seconds: Seconds | None  # None: a device whose rates are not known
    mfu: float | None  # by that time
    tokens: float  # of the global batch
    expert_rows: ExpertRows | None  # None: no mixture of experts
    compile_seconds: float


def _skipped(
    config: Config, built: MeshProgram, rows: BatchLoad, expert_rows: ExpertRows | None
) -> Skipped:
    return Skipped(
        used_rows=1.0 if expert_rows is None else expert_rows.used_share,
        needed_pairs=kind_of(built.settings).needed_pairs(
            built.settings, mesh_program.run_shape(config, built.mesh), rows.segment_length
        ),
    )


def make(
    config: Config,
    base: settings.DecoderSettings,
    topology: Topology,
    rows: BatchLoad,
    say: remat_choice.Say = lambda line: None,
    stored: StoredDtypes | None = None,
    teacher: Teacher | None = None,
) -> Estimate:
    """Compiles the step that `train` would run there; `stored` is mesh_program.make_program's.

    Args:
        teacher: of config.distil.

    Raises:
        ConfigError: model, mesh and batch don't fit each other.
        TooLarge: the compiler itself finds that it can't fit.
    """
    steps = config.train.steps or shortest_run(config.optim)  # changes a constant only
    config = on_slices(config, topology)
    mesh = mesh_program.checked_mesh(config, base, topology.devices)
    built = mesh_program.make_program(
        config, base, steps, mesh, rows.max_segments, stored, teacher=teacher
    )
    chosen = remat_choice.choose(built, config, memory.limit_of(topology.chip), say)
    return of_chosen(config, chosen, rows, topology)


def of_chosen(
    config: Config, chosen: remat_choice.Chosen, rows: BatchLoad, topology: Topology
) -> Estimate:
    """Of a step that was compiled for these devices.

    Raises:
        TooLarge: the compiler itself found that it can't fit.
    """
    train, length = config.train, config.data.sequence_length
    compiled, needed_memory = chosen.measured
    built = chosen.program
    expert_rows = experts.expected(config, built.settings, built.mesh.shape, rows)
    tiles = {} if expert_rows is None else {TILES_SCOPE: expert_rows.tiles}
    parsed = hlo.parse(compiled.as_text(), head_chunks(config, built, rows), tiles)
    chip = topology.chip
    slots = train.batch_size * length
    tokens = rows.tokens * slots
    counts = rows.counts(slots, built.settings)
    needed = training_flops(built.settings, counts, rows.supervised * slots, built.untrained)
    flops = needed / topology.num_devices
    skipped = _skipped(config, built, rows, expert_rows)
    found = kernels.of_program(parsed, skipped)
    collectives = tuple(
        communication.of(one, built.mesh, topology) for one in cost.collectives(parsed)
    )
    seconds = None if chip is None else seconds_of(chip, found, collectives)
    return Estimate(
        mesh=dict(built.mesh.shape),
        num_parameters=built.num_parameters,
        state_bytes=memory.state_bytes(built),
        memory=needed_memory,
        remat=built.remat,
        remat_why=chosen.why,
        flops=flops,
        matmul_flops=sum(one.flops for one in found),
        bytes_moved=sum(one.bytes for one in found),
        collectives=collectives,
        seconds=seconds,
        mfu=flops / (chip.bf16_flops * seconds.estimate) if chip and seconds else None,
        tokens=tokens,
        expert_rows=expert_rows,
        compile_seconds=chosen.compile_seconds,
    )


def on_slices(config: Config, topology: Topology) -> Config:
    """With the replicas that open axes mean: boxes that aren't there don't say they are slices."""
    sizes = config.mesh
    if sizes.data is None and sizes.fsdp is None:
        sizes = dataclasses.replace(sizes, data=topology.num_slices)
    return dataclasses.replace(config, mesh=sizes)


def head_chunks(config: Config, built: MeshProgram, rows: BatchLoad) -> float:
    """How often the loop over supervised tokens runs, whose length the data decide."""
    sizes = built.mesh.shape
    parts = mesh_lib.parts("batch", sizes) * mesh_lib.parts("sequence", sizes)
    slots = config.train.batch_size * config.data.sequence_length
    local = max(1, slots // (config.train.microbatches * parts))
    most = built.recipe.loss_form.most_chunk_tokens
    return np.ceil(rows.supervised * local / chunk_tokens(local, most))


def seconds_of(
    chip: Chip, found: Sequence[Kernel], collectives: tuple[Communication, ...]
) -> Seconds:
    sending = sum(one.seconds or 0.0 for one in collectives)
    return Seconds(
        matmuls=sum(one.flops for one in found) / chip.bf16_flops,
        memory=sum(one.bytes for one in found) / chip.memory_bandwidth,
        communication=sending,
        estimate=expected_seconds(chip, found, sending),
    )
