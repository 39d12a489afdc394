"""The end of a run: its export, its summary, its page and the last lines on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxsft.config import Config
from jaxsft.convert import check_export
from jaxsft.convert.export.card import Card
from jaxsft.convert.export.directory import MARKER, refuse_foreign
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache.manifest import CacheReport
from jaxsft.data.encode.tokenizer_files import open_tokenizer
from jaxsft.data.report.inspect import pieces
from jaxsft.devices import peak_memory, progress
from jaxsft.devices.mesh import describe
from jaxsft.evaluation.scoring.table import table
from jaxsft.files import buckets, records, run_names
from jaxsft.model import quantised
from jaxsft.model.state import Params
from jaxsft.report import (
    comparison,
    endings,
    kept_base,
    last_lines,
    model_change,
    run_export,
)
from jaxsft.report import summary as summary_file
from jaxsft.report.kept_base import Difference
from jaxsft.report.model_change import ModelChange
from jaxsft.report.page.write import write_report
from jaxsft.report.summary import Summary, TrainedExample
from jaxsft.report.the_end import End
from jaxsft.rundir.checkpoint.notes import Change
from jaxsft.rundir.run_files import Outputs
from jaxsft.rundir.sample import Sample
from jaxsft.rundir.workdir import Workdir
from jaxsft.terminal.redact import redacted
from jaxsft.terminal.start_clock import StartClock
from jaxsft.training.inputs import PreparedData
from jaxsft.training.job import Job

_EXAMPLES = 6  # of the training data that the report shows


@progress.during("writing the report")
def finish(
    config: Config,
    base: Pretrained,
    data: PreparedData,
    job: Job,
    end: End,
    out: Outputs,
    command: str,
    clock: StartClock,
    changes: Sequence[Change],
) -> None:
    """Exports, writes summary and report, and shows what changed."""
    command = redacted(command)
    before = comparison.figures_at(out.metrics.history.read(), 0)
    after: dict[str, Any] = comparison.of_evaluation(end.figures)
    about = run_export.model_card(config, data.train.manifest.trained_on, before, after, command)
    few_bits = _exports(config, base, data, job, end.params, about, out)
    moved = _moved_weights(config, base, data, job, end, out)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxsft export checked and copied")
    if jax.process_index() != 0:
        return
    examples = trained_examples(config, data)
    summary = Summary(
        model=config.model.source,
        parameters=job.program.num_parameters,
        trained_parameters=None if config.lora is None else job.program.num_trained,
        device=f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        mesh=describe(job.program.mesh),
        steps=end.num_steps,
        epochs=job.batches.epochs.epochs_at(end.num_steps),
        planned_steps=job.num_steps,
        exported_step=end.exported_step,
        best=end.best,
        ended=end.why,
        changes=changes,
        checkpoint_failures=out.saver.failures,
        wall_seconds=clock.since_made(),
        start_seconds=clock.seconds,
        phase_seconds=progress.spent(),
        peak_memory_bytes=peak_memory.host_bytes(),
        before=before,
        after=after,
        scores=table([records.from_json(Sample, line) for line in out.samples.read()]),
        data=_reports(data),
        export=_shown(config, out, run_names.EXPORT),
        export_merged=_shown(config, out, run_names.EXPORT_MERGED),
        **vars(moved),
        kept_base=few_bits,
        command=command,
        versions=run_export.versions(),
        choices=job.program.choices,
        example=examples[0].tokens,
        examples=examples,
    )
    summary_file.write(out.workdir.files, summary)
    endings.attempt(run_names.REPORT, lambda: write_report(out.workdir.files))
    out.copy(now=True)
    last_lines.show(summary, out.workdir, out.console)


def _shown(config: Config, out: Outputs, export: str) -> str | None:
    return out.workdir.shown(export) if _wanted(config)[export] else None


def _reports(data: PreparedData) -> dict[str, CacheReport]:
    held_out = {name: cache.report for name, cache in data.eval.items()}
    return {"train": data.train.report} | held_out


def _exports(
    config: Config,
    base: Pretrained,
    data: PreparedData,
    job: Job,
    params: Params,
    about: Card,
    out: Outputs,
) -> list[Difference]:
    """Writes those that the config asks for; what keeping the base in few bits changed."""
    found = _kept_base(config, base, data, job, params, out)
    for name in (name for name, writes in _wanted(config).items() if writes):
        found += _export(config, base, data, job, params, about, out, name)
    return found


def _wanted(config: Config) -> dict[str, bool]:
    return {
        run_names.EXPORT: config.checkpoint.export,
        run_names.EXPORT_MERGED: config.checkpoint.merge,
    }


@progress.during("exporting")
def _export(
    config: Config,
    base: Pretrained,
    data: PreparedData,
    job: Job,
    params: Params,
    about: Card,
    out: Outputs,
    name: str,
) -> list[Difference]:
    """Writes one of the run's exports, compared with transformers where the config asks for it.

    Returns:
        How it differs from what was trained, where that was in fewer bits.
    """
    trained_on, merge = data.train.manifest.trained_on, name == run_names.EXPORT_MERGED
    first = jax.process_index() == 0
    with buckets.staged(out.workdir.shown(name), MARKER, writes=first) as directory:
        exported = run_export.export_params(
            config, base, trained_on, params, directory, about, merge=merge
        )
        for note in exported.notes:
            out.console.say("export", f"note: {note}")
        if config.lora is not None and not merge and config.model.weights == "random":
            out.console.say(
                "export",
                "note: the base's weights are random, so no files hold what this adapter was"
                " trained on; config.checkpoint.merge=True writes the whole model",
            )
        if first and config.checkpoint.check_export:
            difference = check_export.compare_logits(directory)
            out.console.say("export", run_export.said_difference(difference))
        return _kept_base(config, base, data, job, params, out, directory, merge)


def _kept_base(
    config: Config,
    base: Pretrained,
    data: PreparedData,
    job: Job,
    params: Params,
    out: Outputs,
    directory: Path | None = None,
    merged: bool = False,
) -> list[Difference]:
    """What it changed that the base is kept in few bits: in the base, or in an export; nothing
    where that can't be found out, as of an export whose files only the first of several processes
    may see."""
    if config.model.frozen_dtype not in quantised.KINDS or base.tensors is None:
        return []
    if directory is not None and jax.process_count() > 1:
        return []
    ((token_ids, _),) = data.train.examples([0])
    try:
        with jax.set_mesh(job.program.mesh):
            if directory is None:
                found = kept_base.of_base(params, base, token_ids)
            else:
                found = kept_base.of_export(params, base, directory, token_ids, merged)
    except Exception as failed:  # no room for the weights in their files, above all
        said = str(failed).partition("\n")[0]
        out.console.say(config.model.frozen_dtype, f"note: what it changed is not known: {said}")
        return []
    out.console.say(config.model.frozen_dtype, found.words)
    return [found]


def _moved_weights(
    config: Config, base: Pretrained, data: PreparedData, job: Job, end: End, out: Outputs
) -> ModelChange:
    """How far each parameter is from the base model's; nothing where that can't be found out, for
    the run itself is complete."""
    try:
        tokenizer = open_tokenizer(data.tokenizer_directory, config.data)

        def text(token: int) -> str:
            said = tokenizer.decode([token])
            return tokenizer.token_text(token) if not said or "\ufffd" in said else said

        with jax.set_mesh(job.program.mesh):
            return model_change.of_run(config, base, job.program, end.params, text)
    except Exception as failed:  # no room for the base's weights, above all
        said = str(failed).partition("\n")[0]
        out.console.say("moved", f"note: how far the weights moved is not known: {said}")
        return ModelChange()


def check_end(config: Config, base: Pretrained, num_parameters: int, workdir: Workdir) -> None:
    """Refuses before the first step what `finish` would refuse after the last.

    Raises:
        UserError: an export's place is taken, its check can't be made, or an adapter has no name.
    """
    for name in (name for name, writes in _wanted(config).items() if writes):
        if not buckets.is_remote(target := workdir.shown(name)):
            refuse_foreign(Path(target))
    if not config.checkpoint.export:
        return
    run_export.refuse_what_has_no_name(config, base)
    if config.checkpoint.check_export:
        check_export.refuse_if_not_possible("config.checkpoint.check_export=True", num_parameters)


def trained_examples(config: Config, data: PreparedData) -> list[TrainedExample]:
    """The first training example, and others evenly from all of them."""
    tokenizer = open_tokenizer(data.tokenizer_directory, config.data)
    total = data.train.report.examples
    wanted = sorted({place * total // _EXAMPLES for place in range(_EXAMPLES)}) if total else [0]
    return [
        TrainedExample(
            f"example {place + 1:,} of {total:,}",
            [(text, float(weights[start])) for text, start in pieces(ids.tolist(), tokenizer)],
        )
        for place, (ids, weights) in zip(wanted, data.train.examples(wanted), strict=True)
    ]
