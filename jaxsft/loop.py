"""The training loop: a step after the other; saves, evaluates and logs on the way."""

import dataclasses
import time

import jax

from jaxsft.config import Config
from jaxsft.devices import progress
from jaxsft.devices.chips import peak_flops
from jaxsft.devices.stragglers import Pace
from jaxsft.devices.termination import Termination
from jaxsft.errors import Stopped, known_to_all
from jaxsft.evaluation import owed
from jaxsft.evaluation.measurer import Measurer
from jaxsft.evaluation.step_rows import StepRows
from jaxsft.rundir import profile, to_come
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.run_files import Outputs
from jaxsft.rundir.step_figures import line_of
from jaxsft.rundir.step_log import StepLog
from jaxsft.training.divergence import Divergence
from jaxsft.training.first_step import Step
from jaxsft.training.job import Job
from jaxsft.training.movement import Movement
from jaxsft.training.saved_state import saved_of
from jaxsft.training.step import TrainState, result_params


@progress.during(progress.TRAINING)
def train(
    config: Config,
    job: Job,
    train_step: Step,
    state: TrainState,
    out: Outputs,
    notes: Notes,
    measurer: Measurer,
    termination: Termination,
) -> TrainState:
    """Trains from `state` to the last step, or to where measurer.watch ends the run; saves,
    evaluates and logs on the way."""
    first, total, watch = int(state.step), job.num_steps, measurer.watch
    evaluate, epochs = config.eval, job.batches.epochs
    out.metrics.resume(first)
    due = epochs.is_due(evaluate.every_steps, evaluate.times_per_epoch, first)
    if 0 < first < total and due:
        owed.measure(first, result_params(job.program.recipe, state), out, measurer)
    if watch is not None and watch.is_over:  # an earlier start ended here
        total = first
    log = StepLog(
        job.program.settings,
        remat=job.program.remat,
        every_steps=config.log.every_steps,
        epochs_at=job.batches.epochs.epochs_at,
        sources=job.program.sources,
        peak_flops=peak_flops(jax.devices()),
        teacher=None if job.program.teacher is None else job.program.teacher.model.settings,
        untrained=job.program.untrained,
    )
    skipped = int(state.skipped_steps)
    rows = StepRows(config, job, out.workdir.files, out.console, first, skipped)
    pace = Pace(config.log.processes_every_steps, lambda line: out.console.say("slow", line))
    movement = Movement(state.trained, first)
    divergence = Divergence(config.optim.max_skipped_steps, skipped)
    batches = job.batches.stream(first, total)
    out.saver.restart_clock()
    traced = profile.traced(config.log.profile_steps, out, first, total)
    shown = out.console.steps(first, total, to_come.schedule_of(config, epochs, total))
    with termination.deferred(), shown, traced as trace:
        for done in range(first + 1, total + 1):
            waiting = time.monotonic()
            batch, counts = next(batches)
            waited = time.monotonic() - waiting
            with progress.waiting(), trace.step(done):
                state, metrics = train_step(state, batch)
            log.add(done, metrics, counts, waited, pace.add(waited))
            for line in movement.after(done, metrics.skipped_steps, state.trained):
                out.console.say("lora", line)

            stop, wished = termination.agreed(out.saver.wishes())
            diverged = divergence.add(done, metrics.skipped_steps)
            last = done == total
            evaluates = epochs.is_due(evaluate.every_steps, evaluate.times_per_epoch, done)
            evaluates &= not (last or stop)
            rows.after(done, metrics, state, flush=diverged or last or stop or evaluates)
            saves = divergence.saves(out.saver.is_due(done, epochs, wished) or last)
            saves |= stop and not last
            for line in log.lines(flush=evaluates or saves or diverged or last):
                out.metrics.append(line_of(out.saver.counted(line)))
                out.console.step(total, line)
            if diverged:
                raise divergence.error()
            if evaluates:
                params = result_params(job.program.recipe, state)
                values = measurer.on_the_way(
                    lambda: termination.agreed(out.saver.wishes())[0], params, done
                )
                if values is None:  # the next start owes them
                    stop = saves = True
                else:
                    out.metrics.append({"step": done} | values)
                    # Parameters that a skipped step left are not saved, so they can't be the best.
                    if watch is not None and not divergence.newest_was_skipped():
                        saves |= divergence.saves(watch.add(done, values) or watch.is_over)
                        total = done if watch.is_over else total
            out.copy(now=saves)  # before the checkpoint, which must not know more than they do
            if saves:
                best = None if watch is None else watch.best
                out.saver.save(done, saved_of(state), dataclasses.replace(notes, best=best))
            if trace.ends(done, metrics) or evaluates or saves:
                log.restart_clock()
            if stop or done == total:
                break
    _leave_loop(total, state, out, divergence, termination)
    return state


def _leave_loop(
    total: int, state: TrainState, out: Outputs, divergence: Divergence, termination: Termination
) -> None:
    """Returns when the last state is saved.

    Raises:
        Stopped: a signal came, to this process or another; the state is saved.
        DivergedError: the last step was skipped.
        UserError: it can't be saved.
    """
    done, skipped = int(state.step), divergence.newest_was_skipped()
    why = termination.why_of_any()
    # Where it stopped a deadline may run.
    out.saver.finish(done, saved_of(state), may_retry=not skipped, settled=not why)
    if done == total and skipped:
        raise divergence.error()
    if why or done < total:
        raise known_to_all(
            Stopped(
                f"stopped by {why} after step {done} of {total}, which is saved;"
                " start the same command again"
            )
        )
