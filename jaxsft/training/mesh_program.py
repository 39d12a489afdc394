"""A run's step and evaluation over its mesh, from config and model settings: no data, no weights.

Training runs them; the plan compiles the step for devices that aren't there.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxsft.config import Config
from jaxsft.data.cache.prepare import source_names
from jaxsft.devices import mesh as mesh_lib
from jaxsft.devices import xla_flags
from jaxsft.errors import ConfigError, MeshError
from jaxsft.kernels.experts import choose as choose_experts
from jaxsft.kernels.experts.form import Use as ExpertsUse
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model import quantised, settings, state
from jaxsft.model.attention.choice import kind_of
from jaxsft.model.attention.kinds import RunShape
from jaxsft.model.remat import OFFLOADED, candidates
from jaxsft.model.state import Params
from jaxsft.training import (
    lora,
    mesh_fit,
    optim,
    over_mesh,
    parameters,
    step,
    untrained,
    what_trains,
)
from jaxsft.training.batch import Batch
from jaxsft.training.lora import Adapters
from jaxsft.training.loss_settings import loss_form, with_loss
from jaxsft.training.over_mesh import TrainStep
from jaxsft.training.parameters import Declared, StoredDtypes, Way
from jaxsft.training.router_loss import router_losses
from jaxsft.training.schedule import make_schedule
from jaxsft.training.step import Recipe, TrainState
from jaxsft.training.teacher import (
    PlacedTeacher,
    Teacher,
    declare,
    form_of_stored,
)
from jaxsft.training.too_large import said_by_compiler
from jaxsft.training.untrained import Untrained
from jaxsft.training.what_trains import TableRow

_MOST_UNROLLED = 48  # layers: more would compile for minutes


@dataclasses.dataclass(frozen=True)
class MeshProgram:
    """A run's step and evaluation over its mesh, and the shapes and places of what they take."""

    settings: settings.DecoderSettings  # with the back ends that were chosen
    mesh: Mesh
    way: Way  # that was taken where the config leaves it open
    recipe: Recipe
    shapes: TrainState
    placement: TrainState  # a NamedSharding for each leaf
    sources: tuple[str, ...]  # whose training losses are kept apart; none where there is but one
    train_step: TrainStep  # under jit; compile_train_step compiles it ahead
    eval_step: Callable[[Params, Batch], Sums]
    choices: tuple[tuple[str, str, str], ...]  # what, which, why
    what_trains: tuple[TableRow, ...]
    adapters: Adapters | None = None  # None: the model's own weights are trained
    stored: StoredDtypes | None = None  # as make_program got them
    teacher: PlacedTeacher | None = None

    @property
    def remat(self) -> str:
        return self.way.remat

    @property
    def num_parameters(self) -> int:
        """Of the model, adapters among them."""
        return state.num_parameters(self.shapes.params)

    @functools.cached_property
    def untrained(self) -> Untrained:
        return untrained.of_run(self.settings, self.recipe.frozen, self.adapters)

    @property
    def num_trained(self) -> int:
        return state.num_parameters(self.shapes.trained)


def checked_mesh(
    config: Config, base: settings.DecoderSettings, devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh of a run.

    Args:
        devices: None: those of this machine.

    Raises:
        MeshError: devices, model or batch don't fit it; with meshes that they fit.
    """
    devices = jax.devices() if devices is None else devices
    try:
        mesh = mesh_lib.make_mesh(config.mesh, devices)
        mesh_fit.check(config, base, mesh.shape)
    except MeshError as error:
        found = mesh_fit.proposal(config, base, len(devices), mesh_lib.num_slices(devices))
        raise MeshError(f"{error}; {found}") from None
    return mesh


def make_program(
    config: Config,
    base: settings.DecoderSettings,
    num_steps: int,
    mesh: Mesh,
    max_segments: int | None = None,
    stored: StoredDtypes | None = None,
    new_ids: Collection[int] = (),
    teacher: Teacher | None = None,
) -> MeshProgram:
    """The program of a run of so many steps over a `checked_mesh`; no parameter is allocated.

    Where the config leaves the way of its layers open it takes the fastest; which one fits, a
    compilation says.

    Args:
        max_segments: of a row that it is given, its padding being one; None: not known.
        stored: the dtype of each parameter in the model's files; None: float32.
        new_ids: of config.model.new_tokens; without them no row of theirs trains.
        teacher: of config.distil.

    Raises:
        ConfigError: the schedule does not fit the run, or config.lora or a rule of config.optim
            the model.
    """
    _refuse_other_bits(config, mesh)
    decoder, choices = choose_back_ends(config, base, mesh, max_segments)
    decoder = lora.with_dropout(with_loss(decoder, config.loss), config.lora)
    way = ways(config, decoder, mesh)[0]
    declared = parameters.declare(config, decoder, way, stored, new_ids)
    placement = state.shardings(declared.shapes, declared.axes, mesh)
    taught, back_end = _with_teacher(config, teacher, mesh, max_segments)
    sources = source_names(config.data.train) if len(config.data.train) > 1 else []
    num_apart, platform = max(len(sources_apart(config)), 1), mesh.devices.flat[0].platform
    recipe = _recipe(config, decoder, declared, num_steps, len(sources) or None, taught, platform)
    state_placement = over_mesh.state_shardings(recipe, declared.shapes, placement, mesh)
    shapes = jax.eval_shape(lambda params: step.init_state(recipe, params), declared.shapes)
    if taught is not None:
        shapes = dataclasses.replace(shapes, teacher=taught.shapes)
        state_placement = dataclasses.replace(state_placement, teacher=taught.placement)
    return MeshProgram(
        settings=decoder,
        mesh=mesh,
        way=way,
        recipe=recipe,
        shapes=shapes,
        placement=state_placement,
        sources=tuple(sources),
        train_step=over_mesh.jit_train_step(recipe, state_placement, mesh),
        eval_step=over_mesh.jit_eval_step(
            declared.graphdef, loss_form(decoder, platform=platform), placement, mesh, num_apart
        ),
        choices=(*choices, *back_end),
        what_trains=tuple(what_trains.table(config.optim, declared.treatments, declared.shapes)),
        adapters=declared.adapters,
        stored=stored,
        teacher=taught,
    )


def sources_apart(config: Config) -> list[str]:
    """Of which what data.holdout takes is a mixture; none where it is of one source alone."""
    mixed = config.data.holdout is not None and len(config.data.train) > 1
    return source_names(config.data.train) if mixed else []


def _refuse_other_bits(config: Config, mesh: Mesh) -> None:
    every, platform = config.train.sdc_check_every_steps, mesh.devices.flat[0].platform
    if every is not None and platform == "gpu" and not xla_flags.deterministic():
        raise ConfigError(
            f"config.train.sdc_check_every_steps={every}: a step made twice on a GPU has the same"
            " bits with XLA_FLAGS=--xla_gpu_deterministic_ops=true only; set it"
        )


def _recipe(
    config: Config,
    decoder: settings.DecoderSettings,
    declared: Declared,
    num_steps: int,
    num_sources: int | None,
    taught: PlacedTeacher | None,
    platform: str,
) -> Recipe:
    teacher = None if taught is None else taught.graphdef
    distil = form_of_stored(config, decoder) if taught is None else taught.form
    return Recipe(
        declared.graphdef,
        optim.make_optimizer(config.optim, declared.treatments.__getitem__),
        make_schedule(config.optim, num_steps),
        config.train.microbatches,
        config.optim.max_grad_norm,
        loss_form(decoder, num_sources, loss=config.loss, distil=distil, platform=platform),
        config.optim.gradient_dtype,
        declared.frozen,
        router_losses(config.loss, decoder),
        noise_seed(config),
        teacher,
    )


def _with_teacher(
    config: Config, teacher: Teacher | None, mesh: Mesh, max_segments: int | None
) -> tuple[PlacedTeacher | None, list[tuple[str, str, str]]]:
    """The teacher over the mesh, and the choice of its attention, which is always its own."""
    named = config.distil is not None and config.distil.teacher is not None
    assert named == (teacher is not None), "config.distil.teacher without the model"
    if teacher is None:
        return None, []
    automatic = dataclasses.replace(config.model, attention="auto", experts="auto")
    own = dataclasses.replace(config, model=automatic)
    decoder, choices = choose_back_ends(own, teacher.settings, mesh, max_segments)
    placed = declare(config, dataclasses.replace(teacher, settings=decoder), mesh)
    chosen = [(which, why) for what, which, why in choices if what == "attention"]
    return placed, [("teacher", f"attention {which}", why) for which, why in chosen]


def noise_seed(config: Config) -> int | None:
    """Of the random numbers that a training step draws; None where it draws none."""
    drops = config.lora is not None and config.lora.dropout > 0
    return config.train.seed if drops or config.loss.neftune_alpha is not None else None


def ways(config: Config, decoder: settings.DecoderSettings, mesh: Mesh) -> Sequence[Way]:
    """Those that a run may take, the fastest first, of which each needs less memory.

    Raises:
        ConfigError: one that these devices can't.
    """
    asked, most = config.model.unroll_layers, 1
    if config.model.remat == OFFLOADED and (on := mesh.devices.flat[0].platform) != "tpu":
        raise ConfigError(
            f"config.model.remat={OFFLOADED}: what is kept waits in the memory of the host, which"
            f" is built for TPUs alone; set full on a {on}"
        )
    # Unrolled, a GPU's compiler makes all layers' numbers of quantised weights at once.
    in_loop = config.model.frozen_dtype in quantised.KINDS
    if mesh.size == 1 and mesh.devices.flat[0].platform == "gpu" and not in_loop:
        most = decoder.num_layers if decoder.num_layers <= _MOST_UNROLLED else 1
    unrolled = sorted({1, most}, reverse=True) if asked is None else [asked]
    return [Way(remat, layers) for remat in candidates(config.model.remat) for layers in unrolled]


def with_way(program: MeshProgram, config: Config, way: Way) -> MeshProgram:
    """The same program whose training step runs its layers in another way."""
    if way == program.way:
        return program
    model = config.model
    graphdef, _, _ = state.abstract(
        program.settings, model.dtype, way.remat, model.parameter_dtype, way.unroll_layers
    )
    recipe = dataclasses.replace(program.recipe, graphdef=graphdef)
    step_of = over_mesh.jit_train_step(recipe, program.placement, program.mesh)
    return dataclasses.replace(program, way=way, recipe=recipe, train_step=step_of)


def choose_back_ends(
    config: Config,
    decoder: settings.DecoderSettings,
    mesh: Mesh,
    max_segments: int | None = None,
) -> tuple[settings.DecoderSettings, tuple[tuple[str, str, str], ...]]:
    """The decoder with its back ends for the mesh's devices, which may be others than ours."""
    run = run_shape(config, mesh, max_segments)
    decoder, name, reason = kind_of(decoder).with_back_end(
        decoder, config.model.attention, run, _device_here(mesh)
    )
    choices = [
        ("attention", name, reason),
        ("loss", "chunked", "the only back end yet"),
    ]
    asked = config.model.experts
    if decoder.moe is not None:
        use = _experts_use(decoder, config.model.dtype, mesh)
        name, reason = choose_experts.choose(asked, use, _device_here(mesh))
        decoder = dataclasses.replace(decoder, moe=dataclasses.replace(decoder.moe, back_end=name))
        choices.append(("experts", name, reason))
    elif asked != "auto":
        raise ConfigError(f"config.model.experts={asked}: the model has no experts; set auto")
    return decoder, tuple(choices)


def run_shape(config: Config, mesh: Mesh, max_segments: int | None = None) -> RunShape:
    return RunShape(
        platform=mesh.devices.flat[0].platform,
        mesh_sizes=mesh.shape,
        length=config.data.sequence_length,
        dtype=config.model.dtype,
        max_segments=max_segments,
    )


def _experts_use(decoder: settings.DecoderSettings, dtype: str, mesh: Mesh) -> ExpertsUse:
    assert decoder.moe is not None
    return ExpertsUse(
        platform=mesh.devices.flat[0].platform,
        embed_dim=decoder.embed_dim,
        mlp_dim=decoder.moe.expert_mlp_dim // mesh_lib.parts("mlp", mesh.shape),
        dtype=dtype,
    )


def _device_here(mesh: Mesh) -> Any:
    """One of the mesh's devices that this process can run on; None in a plan for others."""
    return next((device for device in jax.local_devices() if device in mesh.devices.flat), None)


def abstract_state(program: MeshProgram) -> TrainState:
    """The state's shapes and where each leaf lies."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        program.shapes,
        program.placement,
    )


def lower_train_step(program: MeshProgram, config: Config) -> Any:
    """The training step as the compiler gets it, for batches of this config."""
    batch = abstract_batch(program, config.train.batch_size, config.data.sequence_length)
    with jax.set_mesh(program.mesh):
        return program.train_step.lower(abstract_state(program), batch)


def compile_train_step(program: MeshProgram, config: Config) -> Any:
    """The training step as jax's executable, for batches of this config; nothing is allocated.

    `TrainStep` makes a step of it.

    Raises:
        TooLarge: the compiler itself finds that it can't fit.
    """
    lowered = lower_train_step(program, config)
    with jax.set_mesh(program.mesh):
        try:
            return lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if (refusal := said_by_compiler(error)) is None:
                raise
            raise refusal from None


def abstract_batch(program: MeshProgram, batch_size: int, sequence_length: int) -> Batch:
    """The shapes of a batch of packed rows."""
    rows = over_mesh.batch_sharding(program.mesh)

    def array(dtype: Any, *others: int) -> jax.ShapeDtypeStruct:
        shape = batch_size, sequence_length, *others
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    names = ("tokens_BT", "targets_BT", "segments_BT", "positions_BT")
    int32 = {name: array(jnp.int32) for name in names}
    recipe, weights = program.recipe, {"weights_BT": array(jnp.float32)}
    if program.sources:
        int32["sources_BT"] = array(jnp.int32)
    if recipe.noise_seed is not None:
        int32["examples_BT"] = array(jnp.int32)
    if recipe.loss_form.reweighted:
        weights["objective_weights_BT"] = array(jnp.float32)
    distil = recipe.loss_form.distil
    if distil is not None and distil.teacher is None:
        assert distil.top_k is not None
        int32["teacher_ids_BTX"] = array(jnp.int32, distil.top_k)
        weights["teacher_logprobs_BTX"] = array(jnp.float32, distil.top_k)
    return Batch(**int32, **weights)  # pyright: ignore # shapes
