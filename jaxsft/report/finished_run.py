"""What a finished run leaves: the exported model, summary.json, report.html, a table to read."""

import importlib.metadata
import json
import platform
import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

import jaxsft
from jaxsft.config import Config
from jaxsft.convert import check_export
from jaxsft.convert.export.card import Card, Metric
from jaxsft.convert.export.directory import MARKER, ExportDtype, Exported, export, refuse_foreign
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.encode.tokenizer_files import open_tokenizer
from jaxsft.data.report.inspect import pieces
from jaxsft.devices.mesh import describe
from jaxsft.files import buckets, places, run_names
from jaxsft.files.whole_files import write_text
from jaxsft.model.state import Params
from jaxsft.report import endings
from jaxsft.report.page import write_report
from jaxsft.rundir.run_files import Outputs
from jaxsft.rundir.workdir import Workdir
from jaxsft.terminal.console import Console
from jaxsft.terminal.redact import redacted, redacted_values
from jaxsft.training.inputs import PreparedData, tokenizer_directory
from jaxsft.training.job import Job

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "transformers")


def finish(
    config: Config,
    base: Pretrained,
    data: PreparedData,
    job: Job,
    params: Params,
    out: Outputs,
    command: str,
    started: float,
) -> None:
    """Exports, writes summary and report, and shows what changed."""
    command = redacted(command)
    lines = out.metrics.history.read()
    before, after = figures(lines, 0), figures(lines, job.num_steps)
    first = jax.process_index() == 0
    if config.checkpoint.export:
        about = model_card(config, data.train.manifest, before, after, command)
        with buckets.staged(out.workdir.shown(run_names.EXPORT), MARKER, writes=first) as directory:
            exported = export_params(config, base, data.train.manifest, params, directory, about)
            for note in exported.notes:
                out.console.say("export", f"note: {note}")
            if first and config.checkpoint.check_export:
                difference = check_export.compare_logits(directory)
                out.console.say("export", said_difference(difference))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("jaxsft export checked and copied")
    if not first:
        return
    summary = {
        "model": config.model.source,
        "parameters": job.program.num_parameters,
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "mesh": describe(job.program.mesh),
        "steps": job.num_steps,
        "epochs": job.batches.epochs.epochs_at(job.num_steps),
        "wall_seconds": time.monotonic() - started,
        "peak_memory_bytes": peak_memory_bytes(),
        "before": before,
        "after": after,
        "data": {"train": data.train.report}
        | {name: cache.report for name, cache in data.eval.items()},
        "export": out.workdir.shown(run_names.EXPORT) if config.checkpoint.export else None,
        "command": command,
        "versions": versions(),
        "choices": job.program.choices,
        "example": _example(config, data),
    }
    text = json.dumps(redacted_values(summary), indent=2) + "\n"
    write_text(out.workdir.files / run_names.SUMMARY, text)
    endings.attempt(run_names.REPORT, lambda: write_report(out.workdir.files))
    out.copy(now=True)
    _show(summary, out.workdir, run_names.REPORT, out.console)


def check_end(config: Config, num_parameters: int, workdir: Workdir) -> None:
    """Refuses before the first step what `finish` would refuse after the last.

    Raises:
        UserError: the export's place is taken, or its check can't be made.
    """
    if not config.checkpoint.export:
        return
    if not buckets.is_remote(target := workdir.shown(run_names.EXPORT)):
        refuse_foreign(Path(target))
    if config.checkpoint.check_export:
        check_export.refuse_if_not_possible("config.checkpoint.check_export=True", num_parameters)


def said_difference(difference: float) -> str:
    return f"logits within {difference:.2g} of transformers' on the same tokens"


def figures(lines: list[dict[str, Any]], step: int) -> dict[str, float]:
    """The evaluation figures taken at a step."""
    return {
        name: value
        for line in lines
        if line["step"] == step
        for name, value in line.items()
        if name.startswith("eval/")
    }


def export_params(
    config: Config,
    base: Pretrained,
    trained_on: dict[str, Any],
    params: Params,
    directory: Path,
    about: Card,
    dtype: ExportDtype | None = None,
) -> Exported:
    """The parameters as a Hugging Face directory.

    Args:
        trained_on: template and end_of_turn_ids of the training data, from a cache's manifest or a
            checkpoint's notes.
        dtype: of the weights; None: config.checkpoint.export_dtype.
    """
    with places.using(f"the export to {directory}", directory):
        return export(
            params,
            base,
            directory,
            dtype=dtype or config.checkpoint.export_dtype,
            template=trained_on["template"],
            end_of_turn_ids=trained_on["end_of_turn_ids"],
            about=about,
            tokenizer=tokenizer_directory(config),
        )


def model_card(
    config: Config,
    trained_on: dict[str, Any],
    before: dict[str, float],
    after: dict[str, float],
    command: str,
) -> Card:
    return Card(
        command=command,
        data_fingerprint=trained_on["fingerprint"],
        mask_policy=(
            f"assistant messages ({config.data.train_on}), from the end of the generation prompt"
            f" to the end-of-turn token inclusive; of these: {', '.join(config.data.train_parts)}"
        ),
        metrics=tuple(
            Metric(name=name, before=before.get(name), after=after.get(name))
            for name in sorted(before.keys() | after.keys())
        ),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"jaxsft": jaxsft.__version__, "python": platform.python_version()} | found


def peak_memory_bytes() -> int:
    """The most memory this process has held in RAM."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _example(config: Config, data: PreparedData) -> list[tuple[str, float]]:
    """The first training example, token by token with its weight."""
    tokenizer = open_tokenizer(data.tokenizer_directory, config.data)
    ((ids, weights),) = data.train.examples([0])
    return [(text, float(weights[start])) for text, start in pieces(ids.tolist(), tokenizer)]


def _show(summary: dict[str, Any], workdir: Workdir, report: str, console: Console) -> None:
    before, after = summary["before"], summary["after"]
    rows = [
        (name.removeprefix("eval/"), _cell(name, before.get(name)), _cell(name, after.get(name)))
        for name in sorted(before.keys() | after.keys())
    ]
    if rows:
        console.table("On held-out data", ("", "before", "after"), rows)
    minutes, memory = summary["wall_seconds"] / 60, summary["peak_memory_bytes"] / 2**30
    console.say(
        "done", f"{summary['steps']} steps; {minutes:.1f} minutes, {memory:.1f} GiB at most"
    )
    console.say("report", workdir.shown(report))
    console.say("metrics", _where_figures_are(workdir))
    if summary["export"]:
        console.say("model", f"{summary['export']} (Hugging Face format: transformers, vLLM)")
    console.say(
        "next",
        f"open {report}; see the tokens as trained:"
        f" python tools/inspect_data.py {config_flags(summary['command'])} --limit=3;"
        " your own data and model: README.md",
    )


def _where_figures_are(workdir: Workdir) -> str:
    """The files of figures that there are: without prompts there are no answers."""
    samples = workdir.files / run_names.SAMPLES
    shown = workdir.shown(run_names.METRICS)
    if samples.is_file() and samples.stat().st_size:
        shown += f"; answers in {workdir.shown(samples.name)}"
    return shown


def config_flags(command: str) -> str:
    """The part of a command line that makes the config: --config and what changes its fields."""
    words = shlex.split(command)
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, _ = word.removeprefix("-").removeprefix("-").partition("=")
        if word.startswith("-") and (name == "config" or name.startswith("config.")):
            found += [word] if equals else [word, following]
    return shlex.join(found)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    is_share = "match" in name or name.endswith("accuracy")
    return f"{value:.1%}" if is_share else f"{value:.4f}"
