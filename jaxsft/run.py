"""A whole run: prepare, restore or load, train, evaluate, save, export, report."""

import contextlib
import dataclasses
from collections.abc import Sequence

import jax

from jaxsft.config import Config
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.report import from_caches
from jaxsft.data.report import text as report_text
from jaxsft.data.report.data_report import DataReport
from jaxsft.devices import compile_cache, distributed, mesh, progress
from jaxsft.devices.termination import Termination
from jaxsft.evaluation.measurer import Measurer
from jaxsft.evaluation.scoring import registry
from jaxsft.files import run_names
from jaxsft.files.caches import cache_root
from jaxsft.loop import train
from jaxsft.plan import memory, prediction, relief
from jaxsft.report import endings, finished_run, live_page, the_end
from jaxsft.rundir import identity, lock, reopen, resume
from jaxsft.rundir.run_files import Command, Outputs, open_outputs, with_date, write_inputs
from jaxsft.rundir.workdir import Workdir
from jaxsft.rundir.writers import opening
from jaxsft.terminal.console import Console
from jaxsft.terminal.start_clock import StartClock
from jaxsft.training import first_state, inputs, preflight, started_adapter, teacher, too_large
from jaxsft.training.first_step import FirstStep
from jaxsft.training.inputs import PreparedData
from jaxsft.training.job import Job, eval_notes, set_up
from jaxsft.training.lora import lora_notes
from jaxsft.training.loss_settings import loss_notes
from jaxsft.training.over_mesh import TrainStep
from jaxsft.training.predicted import Predicted
from jaxsft.training.replay import CheckedStep
from jaxsft.training.router_loss import router_notes
from jaxsft.training.saved_state import state_of
from jaxsft.training.start_notes import start_notes
from jaxsft.training.step import Changing, TrainState


def run(
    config: Config,
    workdir: Workdir,
    command: Command,
    allow_changed: Sequence[str] = (),
    clock: StartClock | None = None,
) -> None:
    """The whole job.

    Args:
        command: that started it, for the report.
        allow_changed: fields that decide the result and may differ from when the run began.
        clock: of this start, imports behind it; None: begins here.

    Raises:
        UserError: what the user can mend.
        Stopped: a termination signal arrived; the state is saved.
        DivergedError: steps were skipped one after the other.
    """
    clock = clock or StartClock()
    termination = Termination(config.checkpoint.grace_seconds)
    with termination.listening(), contextlib.ExitStack() as leaving:
        console = _begin(config, workdir, termination, allow_changed)
        config, out, allowed = _open(config, workdir, console, allow_changed, leaving)
        clock.ended("devices")
        config, base, opened = _open_models(config, console)
        clock.ended("model")
        data = distributed.first_then_others(lambda: inputs.prepare_data(config, base, console))
        distributed.refuse_differences(inputs.data_facts(data))
        notes = resume.notes_of(config, data.train)
        # The data too, before a compilation.
        notes = resume.with_changes(out.store, notes, allowed, console.say)
        job = distributed.together(lambda: set_up(config, base, data, opened))
        # Each process tests kernels on a device of its own.
        chosen = {f"the back end of {what}": which for what, which, _ in job.program.choices}
        distributed.refuse_differences(chosen)
        report = _report_data(config, job, data, console)
        _announce(config, base, job, data, console, workdir.shown(""))
        size = job.program.num_parameters
        distributed.first_then_others(lambda: finished_run.check_end(config, base, size, workdir))
        measurer = _measurer(config, job, data, out)
        clock.ended("data")
        with jax.set_mesh(job.program.mesh):
            # Before a weight is loaded.
            job, train_step, predicted = _compile(config, job, data, console)
            clock.ended("compile")
            page, out = live_page.beside(out, leaving, predicted)
            leaving.enter_context(too_large.explained(job.program.way.set_in(config)))
            saved = resume.resume(out.store, job, notes, console.say, allowed)
            distributed.refuse_differences({"step": None if saved is None else int(saved.step)})
            # Not before resume has found nothing against it.
            distributed.together(lambda: write_inputs(config, report, workdir.files, command))
            state = _first_state(config, base, job, data, out, measurer, saved, clock)
            notes = resume.with_digests(notes, state)
            step = FirstStep(train_step, clock, console.say)
            state = train(config, job, step, state, out, notes, measurer, termination)
            end = the_end.measured(config, job, state, out, measurer)
            page.close()
            changes = notes.changes or ()
            finished_run.finish(config, base, data, job, end, out, command.line, clock, changes)


def _begin(
    config: Config, workdir: Workdir, termination: Termination, allow_changed: Sequence[str]
) -> Console:
    """Takes the devices, with the same config on every process."""
    compiled_programs = compile_cache.use(cache_root(None))
    memory_share = distributed.open_devices()
    termination.take_again()
    asked = {"--workdir": workdir.name, "--allow_changed": list(allow_changed)}
    distributed.refuse_differences(distributed.facts(config) | asked)
    distributed.together(lambda: registry.scorers_of(config.eval))  # what is wrong with them
    distributed.of_first(lambda: opening.check(config.log.writers))
    console = Console(speaks=jax.process_index() == 0)
    console.say("cache", f"{compiled_programs} keeps compiled programs")
    if memory_share is not None:
        console.say("memory", memory_share)
    return console


def _measurer(config: Config, job: Job, data: PreparedData, out: Outputs) -> Measurer:
    """What measures the run, once it is known that the model can be asked what it will be."""
    measurer = Measurer(config, job, data, out.samples, out.console.say)
    measurer.check_prompts(before=not distributed.of_first(out.store.steps))
    return measurer


@progress.during("reading weights")
def _first_state(
    config: Config,
    base: Pretrained,
    job: Job,
    data: PreparedData,
    out: Outputs,
    measurer: Measurer,
    saved: Changing | None,
    clock: StartClock,
) -> TrainState:
    """What was saved, or the state before step 0, which is measured.

    Raises:
        CheckpointError: what was saved was trained on another base, or learnt from another teacher.
    """
    say, placed = out.console.say, job.program.teacher
    taught = None if placed is None else distributed.together(lambda: teacher.read(placed))
    if saved is not None:
        progress.mark(int(saved.step))
        frozen = first_state.frozen_params(config, base, job.program, data, say, saved.params)
        state = state_of(saved, frozen, taught)
        resume.refuse_other_files(out.store, int(saved.step), state)
        resume.go_on_watching(out, int(saved.step), measurer.watch)
        clock.ended("restore")
        return state
    trained = reopen.continued_params(config, job.program, say)
    state = first_state.first_state(config, base, job, data, say, trained)
    state = dataclasses.replace(state, teacher=taught)
    out.workdir.forget(run_names.SUMMARY)  # of an earlier run in the same place
    out.metrics.resume(None)
    clock.ended("model")
    out.metrics.append({"step": 0} | measurer.measure(state.params, "before"))
    clock.ended("evaluation")
    return state


def _open(
    config: Config,
    workdir: Workdir,
    console: Console,
    allow_changed: Sequence[str],
    leaving: contextlib.ExitStack,
) -> tuple[Config, Outputs, frozenset[str]]:
    """The config with what an earlier start decided, the run's files, and the names in its identity
    that may differ.

    Raises:
        CheckpointError: that start decided otherwise, or its checkpoints are not there.
        ConfigError: a name that is none; or another run has the directory.
    """
    leaving.enter_context(lock.held(workdir, console.say))
    workdir.reports = jax.process_index() == 0
    distributed.of_first(workdir.fetch)
    distributed.of_first(lambda: endings.report_leftover(workdir))
    out = distributed.together(lambda: open_outputs(config, workdir, console))
    leaving.callback(out.metrics.close)
    leaving.enter_context(out.saver.listening())
    config = with_date(config, workdir, out.store)
    distributed.of_first(lambda: resume.refuse_lost_checkpoints(out))
    now = identity.identity(config)
    allowed = identity.allowed_fields(allow_changed, now)
    resume.refuse_changed(out.store, now, allowed)
    distributed.together(lambda: out.store.steps() or reopen.check_continue_from(config))
    return config, out, allowed


def _open_models(
    config: Config, console: Console
) -> tuple[Config, Pretrained, teacher.Teacher | None]:
    """The config with what an adapter's files decide, the base, and the teacher; no weights yet."""
    base = distributed.together(lambda: inputs.open_model(config, console.say))
    config = distributed.together(lambda: started_adapter.resolved(config, base))
    distributed.together(lambda: preflight.check_config(config, base.settings))
    opened = distributed.together(lambda: teacher.open_teacher(config, base.settings))
    return config, base, opened


def _report_data(config: Config, job: Job, data: PreparedData, console: Console) -> DataReport:
    """What there is to know of the data and of the steps made of it; shown, too."""
    shares = mesh.parts("batch", job.program.mesh.shape)
    epochs = job.batches.epochs
    hints = preflight.method_hints(config, job.program.num_trained, epochs, data.train)
    report = from_caches.report_of(
        config.data, config.train, data.train, data.eval, epochs, shares, hints
    )
    console.show(lambda terminal: report_text.print_report(report, terminal))
    return report


def _announce(
    config: Config, base: Pretrained, job: Job, data: PreparedData, console: Console, directory: str
) -> None:
    """What is about to happen, before anything is computed."""
    told = first_state.precision_notes(config, base)
    told += teacher.unread_notes(config, data.train)
    s, model, epochs = job.program.settings, config.model, job.batches.epochs
    device = jax.devices()[0].device_kind
    weights = "" if model.weights == "pretrained" else ", random weights"
    console.say(
        "model",
        f"{model.source}: {job.program.num_parameters / 1e6:,.1f}M parameters, {s.num_layers}"
        f" layers{weights}; {model.parameter_dtype} parameters, {model.dtype} compute",
    )
    for note in told:
        console.say("model", note)
    if config.optim.ema_decay is not None:
        taken = "evaluations and export take it" if config.optim.ema_is_result else "only kept"
        console.say("ema", f"a mean of the parameters, decay {config.optim.ema_decay}: {taken}")
    for row in job.program.what_trains:
        console.say("trains", row.words)
    for note in lora_notes(config):
        console.say("lora", note)
    console.say("mesh", f"{len(jax.devices())} x {device}: {mesh.describe(job.program.mesh)}")
    for what, which, why in job.program.choices:
        console.say(what, f"{which} ({why})")
    routers = router_notes(config.loss, job.program.settings, config.train.microbatches)
    for note in [*loss_notes(config.loss), *routers]:
        console.say("loss", note)
    for note in teacher.notes(config, job.program.teacher):
        console.say("distil", note)
    for note in eval_notes(config, job):
        console.say("plan", note)
    for topic, note in start_notes(config, job, data, directory):
        console.say(topic, note)
    console.say(
        "plan",
        f"{epochs.num_rows:,} rows of {config.data.sequence_length:,} tokens,"
        f" {epochs.fill:.1%} full; {epochs.steps_in(1):,} steps an epoch;"
        f" {job.num_steps:,} steps in all ({epochs.epochs_at(job.num_steps):.3g} epochs)",
    )


@progress.during("compiling")
def _compile(
    config: Config, job: Job, data: PreparedData, console: Console
) -> tuple[Job, TrainStep | CheckedStep, Predicted]:
    """The job, with its remat policy; its step, which must fit the devices' memory; and what that
    is expected to cost."""
    limit = memory.limit_here()
    chosen = relief.compile_step(job.program, config, limit, lambda line: console.say("step", line))
    console.say("remat", chosen.line)
    predicted = prediction.of_start(config, job, data.train, chosen)
    console.say("predicted", prediction.words(predicted))
    step, every = TrainStep(chosen.compiled), config.train.sdc_check_every_steps
    if every is not None:
        step = CheckedStep(step, chosen.program, every, lambda line: console.say("sdc", line))
    return dataclasses.replace(job, program=chosen.program), step, predicted
