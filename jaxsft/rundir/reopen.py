"""What a checkpoint of a run holds for an export: base, parameters, what they were trained on."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping

import jax

from jaxsft.config import Config, from_dict
from jaxsft.convert import pretrained
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache.manifest import TrainedOn
from jaxsft.devices import distributed, mesh
from jaxsft.errors import CheckpointError, ConfigError, known_to_all
from jaxsft.files import run_names
from jaxsft.model import adapter_plan, state
from jaxsft.model.adapter import without_starts
from jaxsft.model.state import Params
from jaxsft.rundir import resume
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.rundir.workdir import Workdir, opened
from jaxsft.training import first_state, inputs, parameters
from jaxsft.training.inputs import Say
from jaxsft.training.mesh_program import MeshProgram, abstract_state
from jaxsft.training.saved_state import saved_of


@dataclasses.dataclass(frozen=True)
class ReopenedRun:
    config: Config
    step: int
    base: Pretrained
    params: Params  # on one device
    trained_on: TrainedOn


def read(workdir: Workdir, step: int | None) -> ReopenedRun:
    """The checkpoint of a step; None: the newest.

    Raises:
        ConfigError: no directory of a run.
        CheckpointError: no such checkpoint, or one that can't be read.
    """
    config = _read_config(workdir)
    store = CheckpointStore(workdir.checkpoints, config.checkpoint.keep)
    chosen = _chosen_step(store, step)
    base = inputs.open_model(config, lambda topic, text: None)
    params = _read_params(config, store, chosen, base)
    return ReopenedRun(config, chosen, base, params, store.notes(chosen).trained_on)


def check_continue_from(config: Config) -> None:
    """Refuses what `continued_params` would, as far as is known before a compilation.

    Raises:
        ConfigError, CheckpointError: as continued_params.
    """
    if config.model.continue_from is not None:
        with _other_run(config, config.model.continue_from):
            pass


def continued_params(config: Config, program: MeshProgram, say: Say) -> Params | None:
    """The parameters saved by what config.model.continue_from names; None: it names nothing.

    Raises:
        ConfigError: no directory of a run, or one with other new tokens.
        CheckpointError: no such checkpoint, one of another form, or one that can't be read.
    """
    given = config.model.continue_from
    if given is None:
        return None
    wanted = saved_of(abstract_state(program)).params
    with contextlib.ExitStack() as stack:
        other = _other_run(config, given)
        store, seen = distributed.together(lambda: stack.enter_context(other))
        chosen: int = distributed.gather({"step": seen})[0]["step"]

        def read() -> tuple[Params, Mapping[str, int]]:
            with _naming(given):
                return store.read(chosen, wanted, "params"), store.notes(chosen).digests

        params, digests = distributed.together(read)
    if (failure := store.verify({"params": params}, digests)) is not None:
        raise known_to_all(CheckpointError(f"--continue_from={given}: {failure.cause}"))
    where = f"{store.directory.parent} after its step {chosen}"
    say("model", f"weights of {where}; fresh optimizer, step 0")
    return params


@contextlib.contextmanager
def _other_run(config: Config, given: str) -> Iterator[tuple[CheckpointStore, int]]:
    """The checkpoints of the run that is to be continued from, and the step to take."""
    match = re.fullmatch(r"(.+?)(?::(\d+))?", given)
    assert match is not None
    step = None if match[2] is None else int(match[2])
    with opened(match[1], writes=False, flag="--continue_from") as workdir:
        workdir.fetch()
        _refuse_other_tokens(given, _read_config(workdir, "--continue_from"), config)
        with _naming(given):
            store = CheckpointStore(workdir.checkpoints, keep=1)
            chosen = _chosen_step(store, step, "step")
        yield store, chosen


@contextlib.contextmanager
def _naming(given: str) -> Iterator[None]:
    """Inside, an error of a checkpoint says which flag named it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"--continue_from={given}: {error}") from error


def _refuse_other_tokens(given: str, theirs: Config, ours: Config) -> None:
    if theirs.model.new_tokens != ours.model.new_tokens:
        raise ConfigError(
            f"--continue_from={given}: that run has"
            f" config.model.new_tokens={list(theirs.model.new_tokens)}, this one"
            f" {list(ours.model.new_tokens)}; rows of the same number would be other tokens"
        )


def _read_config(workdir: Workdir, flag: str = "--workdir") -> Config:
    value = workdir.read_json(run_names.CONFIG)
    if value is None:
        raise ConfigError(
            f"{flag}={workdir.name}: has no {run_names.CONFIG}, or not a whole one; is it a run's"
            " directory?"
        )
    return from_dict(value)


def _chosen_step(store: CheckpointStore, step: int | None, flag: str = "--step") -> int:
    steps = store.steps()
    if not steps:
        raise CheckpointError(f"{store.directory}: no checkpoint has been saved yet")
    if step is not None and step not in steps:
        raise CheckpointError(f"{flag}={step}: {store.directory} has the steps {steps}")
    return steps[-1] if step is None else step


def _read_params(config: Config, store: CheckpointStore, step: int, base: Pretrained) -> Params:
    """The parameters alone: the optimizer's state, twice their size, stays on disk.

    What the run doesn't train is read from its base, which must still be the same.
    """
    stored = pretrained.stored_dtypes(base)
    declared = parameters.declare(config, base.settings, stored=stored)
    placement = state.shardings(declared.shapes, declared.axes, mesh.single_device_mesh())
    wanted = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        declared.shapes,
        placement,
    )
    trained, starts = _read_result(config, store, step, *state.split(wanted, declared.frozen))
    if not declared.frozen:
        return trained
    of_model = adapter_plan.without_adapters
    params = first_state.base_params(config, base, of_model(placement), of_model(declared.shapes))
    params = first_state.with_adapters(
        config, base, declared.adapters, declared.frozen, placement, params, starts
    )
    _, frozen = state.split(params, declared.frozen)
    resume.refuse_other_base(store, step, resume.frozen_digests(frozen))
    return state.merged(trained, frozen)


def _read_result(
    config: Config, store: CheckpointStore, step: int, trained: Params, frozen: Params
) -> tuple[Params, Params]:
    """The trained parameters, or their mean where that is the run's result; and what adapters
    began with."""
    starts = without_starts(frozen)[1]
    is_mean = config.optim.ema_decay is not None and config.optim.ema_is_result
    saved: Params = {}
    if starts or not is_mean:
        saved = store.restore_part(step, "params", state.merged(trained, starts))
    found, starts = without_starts(saved)
    if not is_mean:
        return found, starts
    wide = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "float32", sharding=leaf.sharding), trained
    )
    mean = store.restore_part(step, "opt_state.mean", wide)
    return jax.tree.map(lambda leaf, kept: leaf.astype(kept.dtype), mean, trained), starts
