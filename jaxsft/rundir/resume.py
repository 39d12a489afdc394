"""Going on where a run stopped: what must not have changed, and the newest state that is whole."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from jaxsft.config import Config, Data, Loss, Model, Optim
from jaxsft.data.cache.store import Cache
from jaxsft.devices import distributed
from jaxsft.errors import CheckpointError, known_to_all
from jaxsft.files import run_names
from jaxsft.model import quantised
from jaxsft.model.state import Params
from jaxsft.rundir.checkpoint import failure as failures
from jaxsft.rundir.checkpoint import files
from jaxsft.rundir.checkpoint.digest import digests, named
from jaxsft.rundir.checkpoint.failure import Failure
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore, Damaged
from jaxsft.rundir.run_files import Outputs
from jaxsft.rundir.step_figures import StepFigures, figures_of, is_of_steps
from jaxsft.rundir.watch import Watch
from jaxsft.rundir.workdir import Workdir
from jaxsft.terminal.redact import redacted_values
from jaxsft.training import mesh_program
from jaxsft.training.inputs import Say
from jaxsft.training.job import Job
from jaxsft.training.step import Changing

_DATA = "prepared training data"
# Fields that decide when a run ends: more of it is more of the same data order.
_LENGTHS = ("config.train.epochs", "config.train.steps")
# Fields of Data that decide which rows are trained on.
_DIVISION = ("holdout", "holdout_seed", "duplicates")
# Fields of Optim that change no step: when to give up.
_FREE = ("max_skipped_steps",)


def notes_of(config: Config, train: Cache) -> Notes:
    """What the checkpoints of a run carry beside the arrays."""
    return Notes(
        identity=identity(config) | {_DATA: train.fingerprint},
        template_date=config.data.template_date,
        trained_on=train.manifest.trained_on,
    )


def identity(config: Config) -> dict[str, Any]:
    """What of the config must stay the same for a resumed run to be the same run; no secrets, which
    may change."""
    kept = {
        "model": (
            *("source", "weights", "continue_from", "parameter_dtype"),
            *("new_token_init", "pad_vocab_to", "dead_rows"),
        ),
        "train": ("batch_size", "epochs", "steps", "seed"),
    }
    values = {
        f"config.{section}.{field}": getattr(getattr(config, section), field)
        for section, fields in kept.items()
        for field in fields
    }
    optim = dataclasses.asdict(config.optim).items()
    values |= {f"config.optim.{name}": value for name, value in optim if name not in _FREE}
    values |= {f"config.loss.{name}": value for name, value in vars(config.loss).items()}
    values["config.model.adapter"] = config.model.adapter
    # What config.model.adapter brings is known once the model is open: its own path stands for it.
    own = config.lora is not None and config.model.adapter is None
    values["config.lora"] = "set" if own else None
    if config.lora is not None and own:
        values |= {f"config.lora.{name}": v for name, v in _plain(config.lora).items()}
    if config.lora is not None or config.model.frozen_dtype in quantised.KINDS:
        values["config.model.frozen_dtype"] = config.model.frozen_dtype
    values["config.model.new_tokens"] = list(config.model.new_tokens)
    for name in _DIVISION:
        values[f"config.data.{name}"] = getattr(config.data, name)
    values["config.data.sequence_length"] = config.data.sequence_length
    values["config.data.train: weight, count"] = [[s.weight, s.count] for s in config.data.train]
    return redacted_values(values)


def _plain(section: Any) -> dict[str, Any]:
    """Its fields, lists in the place of tuples: as JSON gives them back."""
    values = dataclasses.asdict(section).items()
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values}


def refuse_changed(
    store: CheckpointStore, now: Mapping[str, Any], say: Say = lambda topic, line: None
) -> None:
    """Compares with the newest checkpoint, before anything takes time.

    Args:
        now: the identity of this start, or what is known of it.

    Raises:
        CheckpointError: naming each value that decides the result and is another now.
    """

    def compare() -> list[tuple[str, int, int]]:
        saved = _newest_identity(store)
        if saved is None:
            return []
        refuse_changes(saved, now)
        return _extended(saved, now)

    for name, before, longer in distributed.together(compare):
        say(
            "resume",
            f"note: {name} was {before} and is {longer}: the learning rate goes on as in a run of"
            f" {longer} from its start, which it is not the same as",
        )


def _newest_identity(store: CheckpointStore) -> Mapping[str, Any] | None:
    """What the newest checkpoint with readable notes says; the others are judged when restored."""
    for number in reversed(store.steps()):
        with contextlib.suppress(Damaged):
            if saved := store.notes(number).identity:
                return saved
    return None


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises CheckpointError naming each value that differs from when the run began.

    A field of Model, Data, Optim or Loss that the checkpoint doesn't know came later: it had its
    default then. A run may be made longer.
    """
    defaults = {
        f"config.{section}.{field.name}": field.default
        for section, fields in (("model", Model), ("data", Data), ("optim", Optim))
        for field in dataclasses.fields(fields)
    }
    defaults |= {f"config.loss.{name}": value for name, value in vars(Loss()).items()}
    # Once, notes kept secrets.
    known: dict[str, Any] = {"config.model.new_tokens": [], "config.lora": None}
    before = redacted_values(defaults | known | dict(before))  # lists in the place of tuples, too
    longer = {name for name, *_ in _extended(before, now)}
    changed = [
        f"{name} was {before.get(name)!r} when this run began and is {value!r} now"
        for name, value in now.items()
        if before.get(name) != value and name not in longer
    ]
    if changed:
        more = (
            "epochs and steps may grow; " if any(n in line for n in _LENGTHS for line in changed)
            else ""
        )  # fmt: skip
        raise CheckpointError(
            "\n".join(
                [
                    *changed,
                    f"{more}go back to the old values, or use another --workdir, with"
                    " --continue_from=this run to start from its weights",
                ]
            )
        )


def _extended(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Name, old and new value of a length of the run that grew."""
    pairs = [(name, before.get(name), now.get(name)) for name in _LENGTHS]
    return [(name, a, b) for name, a, b in pairs if a is not None and b is not None and b > a]


def frozen_digests(frozen: Params) -> dict[str, int]:
    """What tells one set of untrained parameters from another; all processes take part."""
    return {name: int(value) for name, value in jax.device_get(digests(named(frozen))).items()}


def refuse_other_base(store: CheckpointStore, step: int, now: Mapping[str, int]) -> None:
    """Refuses to go on with other untrained parameters than those that the run began with.

    Raises:
        CheckpointError: naming one that differs.
    """
    before = store.notes(step).frozen or {}
    changed = [name for name in sorted(before.keys() | now) if before.get(name) != now.get(name)]
    if changed:
        raise known_to_all(
            CheckpointError(
                f"config.model.source: {changed[0]} is not what this run was trained on"
                f" ({len(changed)} of {len(now)} untrained parameters differ). Bring the base's old"
                " files back, or begin anew with another --workdir"
            )
        )


def refuse_lost_checkpoints(out: Outputs) -> None:
    """Refuses to begin again from step 0 where checkpoints must have been, but are not.

    Raises:
        CheckpointError: a run that finished, or went on past its first save, has none.
    """
    if out.store.steps():
        return
    lines = [line for line in out.metrics.history.read() if is_of_steps(line)]
    if not lines:
        return
    last = figures_of(lines[-1])
    done, every = last.step, _save_every_steps(out.workdir, last)
    # A skipped step puts a save off. The second save waits for the first one; and the first one has
    # made its directory by the step after it.
    trained = done - (last.skipped_steps or 0)
    empty = not files.leftovers(out.store.directory, before=done + 1)
    went_on = every is not None and trained > (1 if empty else 2) * every
    if went_on or out.workdir.read_json(run_names.SUMMARY) is not None:
        raise CheckpointError(
            f"{out.store.directory}: has no checkpoint, but by {run_names.METRICS} this run did"
            f" {done} steps and should have saved some: is a disk not mounted? Bring the"
            " checkpoints back; or, to begin again, use another --workdir or remove"
            f" {out.workdir.shown(run_names.METRICS)}"
        )


def _save_every_steps(workdir: Workdir, last: StepFigures) -> int | None:
    """Of the start before, at the most; None: none, or config.json is lost."""
    saves = (workdir.read_json(run_names.CONFIG) or {}).get("checkpoint", {})
    times = saves.get("save_times_per_epoch")
    if times and last.epoch:
        return math.ceil(math.ceil(last.step / last.epoch) / times)
    return saves.get("save_every_steps")


def resume(store: CheckpointStore, job: Job, notes: Notes, say: Say) -> Changing | None:
    """The newest state that can be restored, but for what is frozen; None: nothing has been saved.

    Nothing is deleted. A step that was proven altered is renamed once an older one is verified; one
    that can't be read for another reason stays where it is.

    Raises:
        CheckpointError: what decides the result has changed since, no checkpoint can be read, or
            the fault is not the checkpoint's: a disk that can't be reached, no memory.
    """
    abstract = mesh_program.abstract_state(job.program).changing
    steps = distributed.of_first(store.steps)  # what others do not see yet is missing to them
    unread: dict[int, Failure] = {}
    for number in reversed(steps):
        state, failure = _verified(store, number, abstract, notes.identity)
        where = f"{store.directory}/{number}"
        if failure is None:
            _leave(store, unread, number, say)
            say("resume", f"from step {number} of {job.num_steps}")
            return state
        if failure.ends_the_run:
            raise known_to_all(
                CheckpointError(
                    f"{where}: {failures.SAID[failure.kind]}: {failure.cause}. Nothing was changed;"
                    " start the same command again when that is mended"
                )
            )
        unread[number] = failure
        say("resume", f"{where}: {failures.SAID[failure.kind]}: {failure.cause}; trying older ones")
    if not steps:
        return None
    said = [f"  {n}: {failures.SAID[f.kind]}: {f.cause}" for n, f in sorted(unread.items())]
    raise known_to_all(
        CheckpointError(
            f"{store.directory}: none of the checkpoints {steps} can be read. Nothing was changed:"
            " bring their files back, or train from the start with another --workdir\n"
            + "\n".join(said)
        )
    )


def go_on_watching(out: Outputs, step: int, watch: Watch | None) -> None:
    """Gives `watch` what an earlier start knew after a step: the best of its evaluations, and that
    of the step itself, which follows the save where the run came to its end."""
    if watch is None:
        return
    _remember_best(out.store, step, watch, out.console.say)

    def evaluated() -> float | None:
        lines = [line for line in out.metrics.history.read() if line["step"] == step]
        return next((line[watch.metric] for line in lines if watch.metric in line), None)

    value = distributed.of_first(evaluated)
    if value is not None:
        watch.add(step, {watch.metric: value})


def _remember_best(store: CheckpointStore, step: int, watch: Watch, say: Say) -> None:
    """The best that the checkpoint knows counts if it is of the same figure and still there."""
    best = store.notes(step).best
    if best is None:
        return
    if best.metric != watch.metric:
        why = f"the figure was {best.metric} and is {watch.metric}"
    elif best.step not in distributed.of_first(store.steps):
        why = f"its checkpoint {best.step} is gone"
    else:
        watch.best = best
        return
    say("resume", f"note: the best step so far is forgotten: {why}")


def _verified(
    store: CheckpointStore, number: int, abstract: Any, now: Mapping[str, Any]
) -> tuple[Changing | None, Failure | None]:
    """The state of a step, or why it can't be had; the same answer on every process."""

    def read() -> tuple[Changing, Mapping[str, int]] | Failure:
        try:
            saved = store.notes(number)
            refuse_changes(saved.identity, now)
            return store.read(number, abstract), saved.digests
        except Damaged as damaged:
            return damaged.failure

    failure = None
    for _ in range(2):  # a second reading tells damage from a passing fault of a disk or of memory
        found = distributed.together(read)
        failure = _agreed(found if isinstance(found, Failure) else None)
        if failure is not None or isinstance(found, Failure):
            return None, failure
        state, digests = found
        failure = store.verify(state, digests)
        if failure is None:
            return state, None
        del found, state  # before another is read
    return None, failure


def _agreed(mine: Failure | None) -> Failure | None:
    """The gravest failure of all processes, with the number of the process that has it."""
    everyone = distributed.gather({"failure": mine and [mine.kind, mine.cause]})
    found = [(number, *one["failure"]) for number, one in enumerate(everyone) if one["failure"]]
    if not found:
        return None
    number, kind, cause = min(found, key=lambda one: failures.ORDER.index(one[1]))
    return Failure(kind, cause if len(everyone) == 1 else f"process {number}: {cause}")


def _leave(store: CheckpointStore, unread: dict[int, Failure], good: int, say: Say) -> None:
    """Renames what was proven altered, now that an older step is known to be good."""
    for number, failure in unread.items():
        if failure.kind == "altered":
            path = distributed.of_first(lambda number=number: store.set_aside(number))
            say("resume", f"checkpoint {number} is kept as {path}")
        else:
            store.leave(number)
            say(
                "resume",
                f"warning: checkpoint {number} stays where it is, unread; this run goes on from"
                f" {good} and renames {number} when it comes to that step",
            )
