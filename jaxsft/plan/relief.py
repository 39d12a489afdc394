"""What would make a training step fit that needs too much memory: tried, not guessed."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxsft.config import Config
from jaxsft.devices import distributed
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.model import settings
from jaxsft.model.remat import candidates
from jaxsft.plan import estimate, memory, remat_choice, sizing
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.estimate import Estimate
from jaxsft.plan.memory import GIB
from jaxsft.plan.remat_choice import Chosen
from jaxsft.plan.topology import Topology
from jaxsft.training import mesh_fit, mesh_program, optim
from jaxsft.training.mesh_program import MeshProgram
from jaxsft.training.parameters import StoredDtypes
from jaxsft.training.schedule import shortest_run
from jaxsft.training.teacher import Teacher
from jaxsft.training.too_large import TooLarge

Change = dict[str, Any]  # of fields by their dotted names
Fits = Callable[[Config], bool]
_MAX_DEVICES = 4096
_MIN_SECONDS = 120.0  # that trying may take, however quickly the first step was compiled
_COMPILATIONS = 6  # as long as the first one, if that is more
_SHORTEST = 64  # tokens of a row that is proposed
_VALUES = 16  # of a field, that are tried at most
_SAVING = {"train.microbatches", "model.remat", "optim.gradient_dtype"}


class _Enough(Exception):
    """The time for trying is over."""


def compiling(
    model: settings.DecoderSettings,
    devices: Sequence[Any] | None,
    limit_bytes: int,
    compile_seconds: float,
    max_segments: int | None = None,
    stored: StoredDtypes | None = None,
    teacher: Teacher | None = None,
) -> Fits:
    """Whether a config's step fits, by its compilation.

    Args:
        max_segments, stored, teacher: as mesh_program.make_program has them.

    Raises:
        _Enough: by the function returned, after some time.
    """
    until = time.monotonic() + max(_MIN_SECONDS, _COMPILATIONS * compile_seconds)

    def fits(config: Config) -> bool:
        if time.monotonic() > until:
            raise _Enough
        steps = config.train.steps or shortest_run(config.optim)  # changes a constant only
        try:
            mesh = mesh_program.checked_mesh(config, model, devices)
            built = mesh_program.make_program(
                config, model, steps, mesh, max_segments, stored, teacher=teacher
            )
            compiled = mesh_program.compile_train_step(built, config)
        except (ConfigError, jax.errors.JaxRuntimeError):
            return False
        return memory.of(compiled, limit_bytes).fits

    return fits


def compile_step(
    built: MeshProgram,
    config: Config,
    limit_bytes: int | None,
    say: Callable[[str], None],
    devices: Sequence[Any] | None = None,
) -> Chosen:
    """The program whose step fits, and that step; all processes take part.

    Args:
        say: is told of what takes long.
        devices: that `built` is for; None: those of this run.

    Raises:
        TooLarge: it does not fit, with any policy that may be taken; with what would.
    """
    count, started = built.mesh.size, time.monotonic()
    alone = jax.process_count() == 1 and limit_bytes is not None
    most_saving = _most_saving(config)
    teacher = None if built.teacher is None else built.teacher.model

    def fits() -> Fits | None:
        """Several processes would have to try the same, at the same time."""
        if not alone:
            return None
        say("too large for a device; trying what would fit, which takes some minutes")
        took = time.monotonic() - started
        room = built.settings.attention_max_segments
        limit = limit_bytes or 0
        return compiling(built.settings, devices, limit, took, room, built.stored, teacher)

    def refuse_state() -> None:
        held = memory.state_bytes(built)
        state = sum(size for name, size in held.items() if name != "gradients")
        of_teacher = "" if teacher is None else ", the teacher's"
        if limit_bytes is None or state <= limit_bytes:
            return
        where = "the device" if count == 1 else f"each of {count} devices"
        raise TooLarge(
            f"the parameters{of_teacher} and the optimizer's state alone take {state / GIB:.1f} GiB"
            f" on {where},"
            f" {(state - limit_bytes) / GIB:.1f} more than the {limit_bytes / GIB:.1f} that a"
            " program may use."
            f" {of_state(most_saving, built.settings, count, limit_bytes, fits(), teacher)}"
        )

    def refuse_step() -> None:
        if chosen.error is not None:
            sizes = dict(built.mesh.shape)
            raise TooLarge(f"{chosen.error} {of_step(most_saving, sizes, fits())}")

    distributed.together(refuse_state)
    chosen = remat_choice.choose(built, config, limit_bytes, say)
    distributed.together(refuse_step)
    return chosen


def estimated(
    config: Config,
    model: settings.DecoderSettings,
    topology: Topology,
    rows: BatchLoad,
    say: Callable[[str], None],
    stored: StoredDtypes | None = None,
    teacher: Teacher | None = None,
) -> Estimate:
    """What estimate.make says.

    Raises:
        TooLarge: the compiler itself finds that it can't fit; with what would.
    """
    started = time.monotonic()
    try:
        return estimate.make(config, model, topology, rows, say, stored, teacher)
    except TooLarge as error:
        limit = int(memory.limit_of(topology.chip) or 0)
        placed = estimate.on_slices(config, topology)
        sizes = mesh_lib.fill(placed.mesh, topology.num_devices)
        took = time.monotonic() - started
        room = rows.max_segments
        fits = compiling(model, topology.devices, limit, took, room, stored, teacher)
        said = _of_either(placed, model, sizes, limit, fits, teacher)
        raise TooLarge(f"{error} {said}") from None


def of_estimate(
    config: Config,
    model: settings.DecoderSettings,
    topology: Topology,
    rows: BatchLoad,
    made: Estimate,
    teacher: Teacher | None = None,
) -> str:
    """What would make a step fit whose estimate says that it doesn't, in words."""
    limit = made.memory.limit_bytes or 0
    fits = compiling(
        model, topology.devices, limit, made.compile_seconds, rows.max_segments, teacher=teacher
    )
    placed = estimate.on_slices(config, topology)
    return _of_either(placed, model, made.mesh, limit, fits, teacher)


def _most_saving(config: Config) -> Config:
    changes: Change = {"model.remat": candidates(config.model.remat)[-1]}
    if config.model.unroll_layers is None:
        changes["model.unroll_layers"] = 1
    return _changed(config, changes)


def _of_either(
    config: Config,
    model: settings.DecoderSettings,
    sizes: dict[str, int],
    limit: int,
    fits: Fits,
    teacher: Teacher | None,
) -> str:
    config = _most_saving(config)
    state = _state_bytes(config, model, mesh_fit.leaves(model), sizes, gradients=False)
    if state + sizing.teacher_bytes(config, teacher, sizes) > limit:
        return of_state(config, model, math.prod(sizes.values()), limit, fits, teacher)
    return of_step(config, sizes, fits)


def of_step(config: Config, sizes: dict[str, int], fits: Fits | None) -> str:
    """What would make the step fit, in words; only what `fits` has been tried on.

    Args:
        sizes: of the mesh.
        fits: None: nothing can be tried here.
    """
    if fits is None:
        return "tools/plan.py --search, on any machine, finds what would fit"
    found: dict[int, Change] = {}
    groups = _groups(config, sizes)
    try:
        for kind, changes in enumerate(groups):  # all kinds, before any is looked at closely
            ends = changes[:1] if len(changes) == 1 else [changes[0], changes[-1]]
            if one := next((one for one in ends if fits(_changed(config, one))), None):
                found[kind] = one
        for kind, one in list(found.items()):
            if one != groups[kind][0]:
                found[kind] = _mildest(config, groups[kind][1:], fits)
        if not found:
            found |= enumerate(_together(config, groups, fits))
    except _Enough:
        pass
    if not found:
        return "Nothing that was tried on these devices fits: take more of them, or larger ones"
    return f"What fits, each by itself: {'; or '.join(map(_words, found.values()))}"


def _groups(config: Config, sizes: dict[str, int]) -> list[list[Change]]:
    """Changes of one kind, the mildest first; kinds that keep the result come first."""
    train, model, kept = config.train, config.model, config.optim
    shares, length = mesh_fit.batch_multiple(sizes), config.data.sequence_length
    over = mesh_lib.parts("sequence", sizes)
    rows = train.batch_size // shares  # of a device: one at least in each micro-batch
    parts = [m for m in range(train.microbatches + 1, rows + 1) if rows % m == 0]
    batch = mesh_fit.batch_multiple(sizes, train.microbatches)
    smaller = range(train.batch_size - batch, 0, -batch)
    remats = (
        sizing.REMATS[sizing.REMATS.index(model.remat) + 1 :]
        if model.remat in sizing.REMATS
        else ()
    )
    halves = [length // 2**n // over * over for n in range(1, 16)]
    groups: list[list[Change]] = [
        [{"train.microbatches": count} for count in _thinned(parts)],
        [{"model.remat": remat} for remat in remats],
        [{"optim.gradient_dtype": "bfloat16"}] * (kept.gradient_dtype == "float32"),
        [{"optim.first_moment_dtype": "bfloat16"}] * _may_narrow(config),
        [{"data.sequence_length": half} for half in halves if half >= _SHORTEST],
        [{"train.batch_size": size} for size in _thinned(smaller)],
    ]
    return [group for group in groups if group]


def _may_narrow(config: Config) -> bool:
    """Whether the optimizer's first moment can be kept in fewer bits."""
    reads = optim.OPTIMIZERS[config.optim.name].reads
    return "first_moment_dtype" in reads and config.optim.first_moment_dtype == "float32"


def _thinned(values: Sequence[int]) -> list[int]:
    """Not all of many values, but the last."""
    step = -(-len(values) // _VALUES) or 1
    return list(reversed(values[::-1][::step]))


def _mildest(config: Config, changes: list[Change], fits: Fits) -> Change:
    """The first of the changes that fits; the last does, and each needs less than those before."""
    low, high = 0, len(changes) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(_changed(config, changes[middle])):
            high = middle
        else:
            low = middle + 1
    return changes[high]


def _together(config: Config, groups: list[list[Change]], fits: Fits) -> list[Change]:
    """The fewest kinds of change that fit together, each at its strongest, the last mildest."""
    strongest: Change = {}
    for changes in groups:
        if changes[0].keys() == {"train.batch_size"}:
            continue  # micro-batches of one row each need as little
        if fits(_changed(config, strongest | changes[-1])):
            return [strongest | _mildest(_changed(config, strongest), changes, fits)]
        strongest |= changes[-1]
    return []


def of_state(
    config: Config,
    model: settings.DecoderSettings,
    num_devices: int,
    limit_bytes: int,
    fits: Fits | None,
    teacher: Teacher | None = None,
) -> str:
    """What would make parameters and optimizer fit that are too large by themselves, in words.

    Args:
        fits: None: nothing can be tried here.
    """
    named = mesh_fit.leaves(model)
    said = []
    if fits and (narrow := _narrower(config, model, num_devices, limit_bytes, fits, teacher)):
        said.append(_words(narrow))
    count = num_devices
    while count < _MAX_DEVICES:
        count *= 2
        sizes = _meshes(config, model, count)
        if any(
            _state_bytes(config, model, named, one, gradients=True)
            + sizing.teacher_bytes(config, teacher, one)
            <= limit_bytes
            for one in sizes
        ):
            said.append(f"{count} devices like these, which hold it with its gradients")
            break
    return f"What fits: {'; or '.join(said)}" if said else "Take a smaller model"


def _narrower(
    config: Config,
    model: settings.DecoderSettings,
    num_devices: int,
    limit_bytes: int,
    fits: Fits,
    teacher: Teacher | None,
) -> Change | None:
    """The fewest kinds of numbers kept in bfloat16, beside all else that saves memory."""
    named = mesh_fit.leaves(model)
    sizes = mesh_lib.fill(config.mesh, num_devices)
    left = limit_bytes - sizing.teacher_bytes(config, teacher, sizes)
    saving: Change = {}
    for changes in _groups(config, sizes):
        if changes[-1].keys() <= _SAVING:
            saving |= changes[-1]
    parameters: Change = {"model.parameter_dtype": "bfloat16"}
    narrower = [parameters]
    if _may_narrow(config):
        moment: Change = {"optim.first_moment_dtype": "bfloat16"}
        narrower = [moment, parameters, moment | parameters]
    try:
        for narrow in narrower:
            one = _changed(config, saving | narrow)
            small = _state_bytes(one, model, named, sizes, gradients=True) <= left
            if small and fits(one):
                return narrow | saving
    except _Enough:
        pass
    return None


def _meshes(config: Config, model: settings.DecoderSettings, count: int) -> list[dict[str, int]]:
    """Meshes of so many devices that the model fits, with as many more rows as they share."""
    batch = config.train.microbatches * count
    rows = -(-config.train.batch_size // batch) * batch
    wider = _changed(config, {"train.batch_size": rows})
    return [mesh_fit.given_sizes(one) for one in mesh_fit.fitting(wider, model, count)[:8]]


def _state_bytes(
    config: Config,
    model: settings.DecoderSettings,
    named: list[mesh_fit.Leaf],
    sizes: dict[str, int],
    gradients: bool,
) -> float:
    """Of parameters and optimizer, and of gradients, on each device."""
    here, _ = sizing.held(named, sizes)
    share, optimizer = sizing.trained_state(config, model, named)
    each = sizing.kept_bytes(config) + optimizer
    each += share * np.dtype(config.optim.gradient_dtype).itemsize if gradients else 0
    return here * each


def _changed(config: Config, changes: Change) -> Config:
    """A copy with other values in the fields of these dotted names."""
    for path, value in changes.items():
        section, field = path.split(".")
        holder = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section: holder})
    return config


def _words(changes: Change) -> str:
    return " with ".join(f"config.{path}={value}" for path, value in changes.items())
