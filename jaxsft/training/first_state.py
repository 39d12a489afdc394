"""The state before step 0, and what a checkpoint leaves out of it.

Trained parameters are pretrained, random or another run's; the optimizer is fresh; frozen ones are
the base model's.
"""

import functools

import jax
import jax.numpy as jnp

from jaxsft.config import Config
from jaxsft.convert import pretrained
from jaxsft.convert.pretrained import Pretrained
from jaxsft.devices import distributed
from jaxsft.model import adapter_plan, dead_rows, state, vocabulary
from jaxsft.model.adapter import without_starts
from jaxsft.model.state import Params
from jaxsft.training import started_adapter, step
from jaxsft.training.inputs import PreparedData, Say
from jaxsft.training.job import Job
from jaxsft.training.lora import Adapters
from jaxsft.training.mesh_program import MeshProgram
from jaxsft.training.step import TrainState


def first_state(
    config: Config,
    base: Pretrained,
    job: Job,
    data: PreparedData,
    say: Say,
    saved: Params | None = None,
) -> TrainState:
    """The state of a run before step 0.

    Args:
        saved: the parameters that another run saved, to begin with instead.
    """
    if saved is None:
        return of_params(job.program, _own_params(config, base, job.program, data, say))
    frozen = frozen_params(config, base, job.program, data, say, saved)
    return _fresh(job.program, without_starts(saved)[0], frozen)


def of_params(program: MeshProgram, params: Params) -> TrainState:
    """The state before step 0 of these parameters, all of the model's, which lie where they belong.

    They are not copied: the first step takes over the memory of those that are trained.
    """
    return _fresh(program, *state.split(params, program.recipe.frozen))


def frozen_params(
    config: Config,
    base: Pretrained,
    program: MeshProgram,
    data: PreparedData,
    say: Say,
    saved: Params,
) -> Params:
    """What no step changes: the same at each start of a run.

    Args:
        saved: the parameters in the run's checkpoint, which has of these what adapters began with.
    """
    if not program.recipe.frozen:
        return {}
    params = _own_params(config, base, program, data, say, without_starts(saved)[1])
    return state.split(params, program.recipe.frozen)[1]


def base_params(
    config: Config, base: Pretrained, placement: Params, shapes: Params | None = None
) -> Params:
    """Pretrained or random parameters of the model, as the config says, where they belong.

    Args:
        shapes: with the dtype of each; None: all in config.model.parameter_dtype.
    """
    if shapes is None:
        _, shapes, _ = state.abstract(
            base.settings, "float32", "none", config.model.parameter_dtype
        )
    if config.model.weights == "random":
        return state.random_params(base.settings, config.train.seed, placement, shapes)
    # Each process reads its own part of the files.
    return distributed.together(lambda: pretrained.read_params(base, placement, shapes))


def with_adapters(
    config: Config,
    base: Pretrained,
    adapters: Adapters | None,
    frozen: frozenset[str],
    placement: Params,
    params: Params,
    starts: Params | None = None,
) -> Params:
    """The model's parameters with adapters: those of config.model.adapter, or ones that change
    nothing yet.

    Args:
        frozen: parameters that are not trained, by dotted paths.
        placement: of model and adapters.
        params: of the model.
        starts: what adapters began with, of a run that goes on; None: it begins.
    """
    if adapters is None:
        return params
    seed, made = config.train.seed, (adapters.specs, adapters.weights)
    params = adapter_plan.first_values(*made, params, placement, seed, starts)
    return started_adapter.begun(config, base, adapters, frozen, placement, params)


def run_params(config: Config, base: Pretrained, program: MeshProgram) -> Params:
    """All parameters that a run begins with; dead rows of its tokenizer stay as they are."""
    of_model = adapter_plan.without_adapters
    placement, shapes = (of_model(tree.params) for tree in (program.placement, program.shapes))
    return _adapted(config, base, program, base_params(config, base, placement, shapes))


def _adapted(
    config: Config,
    base: Pretrained,
    program: MeshProgram,
    params: Params,
    starts: Params | None = None,
) -> Params:
    placement, frozen = program.placement.params, program.recipe.frozen
    return with_adapters(config, base, program.adapters, frozen, placement, params, starts)


def _own_params(
    config: Config,
    base: Pretrained,
    program: MeshProgram,
    data: PreparedData,
    say: Say,
    starts: Params | None = None,
) -> Params:
    of_model = adapter_plan.without_adapters
    placement, shapes = (of_model(tree.params) for tree in (program.placement, program.shapes))
    params = base_params(config, base, placement, shapes)
    if config.model.weights != "random":
        params = _without_dead_rows(config, base, params, data, say)
    return _adapted(config, base, program, params, starts)


def _fresh(program: MeshProgram, trained: Params, frozen: Params) -> TrainState:
    init = functools.partial(step.init_opt_state, program.recipe)
    opt_state = jax.jit(init, out_shardings=program.placement.opt_state)(trained)
    return TrainState(_zero(program), trained, frozen, opt_state, _zero(program))


def precision_notes(config: Config, base: Pretrained) -> list[str]:
    """What bfloat16 parameters lose, at load and in training."""
    kept, rate = config.model.parameter_dtype, config.optim.peak_lr
    if kept == "float32":
        return []
    # bfloat16 has 8 bits: half a step is 2**-9 to 2**-8 of the number.
    return [
        *(f"note: {note}" for note in pretrained.rounding_notes(base, kept)),
        f"hint: config.model.parameter_dtype={kept} has 8 bits, so an update below 1/512 of its"
        f" weight is lost. Adam's are about config.optim.peak_lr={rate:g}: weights above"
        f" {512 * rate:.2g} will hardly move; float32 loses none",
    ]


def _without_dead_rows(
    config: Config, base: Pretrained, params: Params, data: PreparedData, say: Say
) -> Params:
    """Repairs rows of control tokens that the template writes but that were never trained, or
    warns of them, as config.model.dead_rows says."""
    ids = [i for i in data.train.manifest.control_ids if i not in base.new_ids]
    if config.model.dead_rows == "warn":
        found = dead_rows.dead_rows(params, ids, vocabulary.EMBEDDING)
        for tokens, reason in dead_rows.by_reason(found):
            say(
                "model",
                f"warning: the template writes {tokens}, whose embedding was never trained:"
                f" {reason}; inspect_data shows it. Use the template and tokenizer of an instruct"
                " model of this family, a template without it, or"
                " config.model.dead_rows='repair'",
            )
        return params
    for leaf in vocabulary.tables(params):
        dead = dead_rows.dead_rows(params, ids, leaf)
        if dead:
            params = dead_rows.repaired(params, leaf, list(dead), config.train.seed)
        for tokens, reason in dead_rows.by_reason(dead):
            say(
                "model",
                f"{tokens}: its row of {leaf} was never trained: {reason}; it is the mean of"
                " the trained rows now, with a little noise",
            )
    return params


def _zero(program: MeshProgram) -> jax.Array:
    return jax.device_put(jnp.int32(0), program.placement.step)
