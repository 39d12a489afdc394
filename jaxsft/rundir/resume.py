"""Going on where a run stopped: what must not have changed, and the newest state that is whole."""

import contextlib
import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax

from jaxsft.config import Config
from jaxsft.data.cache.store import Cache
from jaxsft.devices import distributed
from jaxsft.devices.digest import digests, named
from jaxsft.errors import CheckpointError, known_to_all
from jaxsft.files import run_names
from jaxsft.model.state import Params
from jaxsft.rundir import identity
from jaxsft.rundir.checkpoint import failure as failures
from jaxsft.rundir.checkpoint import files
from jaxsft.rundir.checkpoint.failure import Failure
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore, Damaged
from jaxsft.rundir.run_files import Outputs
from jaxsft.rundir.step_figures import StepFigures, figures_of, is_of_steps
from jaxsft.rundir.watch import Watch
from jaxsft.rundir.workdir import Workdir
from jaxsft.training import mesh_program
from jaxsft.training.inputs import Say
from jaxsft.training.job import Job
from jaxsft.training.saved_state import saved_of
from jaxsft.training.step import Changing, TrainState


def notes_of(config: Config, train: Cache) -> Notes:
    """What the checkpoints of a run carry beside the arrays."""
    return Notes(
        identity=identity.identity(config) | {identity.DATA: train.fingerprint},
        template_date=config.data.template_date,
        trained_on=train.manifest.trained_on,
    )


def refuse_changed(
    store: CheckpointStore, now: Mapping[str, Any], allowed: Collection[str] = ()
) -> None:
    """Compares with the newest checkpoint, before anything takes time.

    Args:
        now: the identity of this start, or what is known of it.
        allowed: names in it that may differ.

    Raises:
        CheckpointError: naming each value that decides the result and is another now.
    """

    def compare() -> None:
        _, saved = _newest_notes(store)
        if saved.identity:
            identity.refuse_changes(saved.identity, now, allowed)

    distributed.together(compare)


def with_changes(store: CheckpointStore, notes: Notes, allowed: Collection[str], say: Say) -> Notes:
    """The notes with what this start and earlier ones were allowed to change, each said.

    Raises:
        CheckpointError: as refuse_changed.
    """
    refuse_changed(store, notes.identity, allowed)
    step, saved = distributed.together(lambda: _newest_notes(store))
    if not saved.identity:
        return notes
    for one in identity.extended(saved.identity, notes.identity):
        say(
            "resume",
            f"note: {one.field} was {one.before} and is {one.now}: the learning rate goes on as in"
            f" a run of {one.now} from its start, which it is not the same as",
        )
    new = identity.changes(saved.identity, notes.identity)
    for one in new:
        say(
            "resume",
            f"warning: {one.field} was {one.before!r} and is {one.now!r} after step {step}, as"
            " --allow_changed asks: what comes of it is no run that one command makes",
        )
    for name in sorted(set(allowed) - {one.field for one in new}):
        say("resume", f"note: {name} is as it was; --allow_changed need not name it")
    made = [dataclasses.replace(one, step=step) for one in new]
    return dataclasses.replace(notes, changes=[*(saved.changes or ()), *made] or None)


def _newest_notes(store: CheckpointStore) -> tuple[int, Notes]:
    """Those of the newest checkpoint with readable ones, and its step; the others are judged when
    restored. Empty ones where there is none."""
    for number in reversed(store.steps()):
        with contextlib.suppress(Damaged):
            if (saved := store.notes(number)).identity:
                return number, saved
    return 0, Notes()


def with_digests(notes: Notes, state: TrainState) -> Notes:
    """The notes with digests of what no checkpoint of the run holds; all processes take part."""
    frozen, teacher = frozen_digests(state.frozen), frozen_digests(state.teacher or {})
    return dataclasses.replace(notes, frozen=frozen or None, teacher=teacher or None)


def refuse_other_files(store: CheckpointStore, step: int, state: TrainState) -> None:
    """Refuses to go on on another base, or with another teacher.

    Raises:
        CheckpointError: naming a parameter that differs.
    """
    refuse_other_base(store, step, frozen_digests(state.frozen))
    _refuse_differing(
        store.notes(step).teacher or {},
        frozen_digests(state.teacher or {}),
        "config.distil.teacher: {name} is not what this run has learnt from ({changed} of {all} of"
        " the teacher's parameters differ). Bring its old files back",
    )


def frozen_digests(frozen: Params) -> dict[str, int]:
    """What tells one set of untrained parameters from another; all processes take part."""
    return {name: int(value) for name, value in jax.device_get(digests(named(frozen))).items()}


def refuse_other_base(store: CheckpointStore, step: int, now: Mapping[str, int]) -> None:
    """Refuses to go on with other untrained parameters than those that the run began with.

    Raises:
        CheckpointError: naming one that differs.
    """
    _refuse_differing(
        store.notes(step).frozen or {},
        now,
        "config.model.source: {name} is not what this run was trained on ({changed} of {all}"
        " untrained parameters differ). Bring the base's old files back",
    )


def _refuse_differing(before: Mapping[str, int], now: Mapping[str, int], words: str) -> None:
    changed = [name for name in sorted(before.keys() | now) if before.get(name) != now.get(name)]
    if changed:
        said = words.format(name=changed[0], changed=len(changed), all=len(now))
        raise known_to_all(CheckpointError(f"{said}, or begin anew with another --workdir"))


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
    may_miss = last.checkpoint_failures + (1 if empty else 2)
    went_on = every is not None and trained > may_miss * every
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


def resume(
    store: CheckpointStore, job: Job, notes: Notes, say: Say, allowed: Collection[str] = ()
) -> Changing | None:
    """The newest state that can be restored, but for what is frozen; None: nothing has been saved.

    Nothing is deleted. A step that was proven altered is renamed once an older one is verified; one
    that can't be read for another reason stays where it is.

    Args:
        allowed: names in the identity that may differ.

    Raises:
        CheckpointError: what decides the result has changed since, no checkpoint can be read, or
            the fault is not the checkpoint's: a disk that can't be reached, no memory.
    """
    abstract = saved_of(mesh_program.abstract_state(job.program))
    steps = distributed.of_first(store.steps)  # what others do not see yet is missing to them
    unread: dict[int, Failure] = {}
    for path in distributed.of_first(lambda: [str(one) for one in store.unfinished()]):
        say(
            "resume",
            f"warning: {path}: a save that was never completed, and is no checkpoint; removed after"
            " the next save",
        )
    for number in reversed(steps):
        state, failure = _verified(store, number, abstract, notes.identity, allowed)
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
    store: CheckpointStore,
    number: int,
    abstract: Any,
    now: Mapping[str, Any],
    allowed: Collection[str],
) -> tuple[Changing | None, Failure | None]:
    """The state of a step, or why it can't be had; the same answer on every process."""

    def read() -> tuple[Changing, Mapping[str, int]] | Failure:
        try:
            saved = store.notes(number)
            identity.refuse_changes(saved.identity, now, allowed)
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
