"""What the terminal shows of a finished run: figures before and after, and where its files are."""

import shlex

from jaxsft.evaluation.scoring.table import said
from jaxsft.files import run_names
from jaxsft.files.buckets import is_remote
from jaxsft.report import comparison, run_read, verdict, weight_change
from jaxsft.report.summary import Summary
from jaxsft.rundir.workdir import Workdir
from jaxsft.terminal.console import Console

_IN_THE_REPORT = ("/perplexity", "/entropy", "/first_token_loss")  # too much for a terminal


def show(summary: Summary, workdir: Workdir, console: Console) -> None:
    before, after = summary.before, summary.after
    rows = [
        (name.removeprefix("eval/"), _cell(name, before.get(name)), _cell(name, after.get(name)))
        for name in sorted(before.keys() | after.keys())
        if not name.endswith(_IN_THE_REPORT)
    ]
    if rows:
        console.table("On held-out data", ("", "before", "after"), rows)
    for row in summary.scores:
        console.say("scores", said(row))
    judged = verdict.verdict_of(run_read.read_run(workdir.files))
    console.say("verdict", judged.sentence)
    for step in judged.steps[:2]:
        console.say("", step)
    minutes, memory = (summary.wall_seconds or 0) / 60, (summary.peak_memory_bytes or 0) / 2**30
    if summary.weights:
        moved = weight_change.overall(summary.weights)
        console.say(
            "moved", f"the weights, by {moved:.2%} of their norm; {run_names.REPORT}: where"
        )
    if summary.export and summary.exported_step not in (None, summary.steps):
        console.say("export", f"the parameters after step {summary.exported_step}, the best")
    console.say("done", f"{summary.steps} steps; {minutes:.1f} minutes, {memory:.1f} GiB at most")
    console.say("report", workdir.shown(run_names.REPORT))
    console.say("metrics", where_figures_are(workdir))
    if summary.export and summary.trained_parameters is not None:
        console.say("adapter", f"{summary.export} (on {summary.model}: PEFT, vLLM)")
    elif summary.export:
        console.say("model", f"{summary.export} (Hugging Face format: transformers, vLLM)")
    if summary.export_merged:
        console.say("model", f"{summary.export_merged} (Hugging Face format: transformers, vLLM)")
    for what, command in next_commands(summary, workdir.name):
        console.say(what, command)


def next_commands(summary: Summary, workdir: str) -> list[tuple[str, str]]:
    """What to do with it, as commands that can be copied, each with what it is for."""
    name, config = workdir.rstrip("/"), config_flags(summary.command or "")
    found = []
    if summary.export and not is_remote(name):
        found.append(("talk", f"python tools/chat.py {shlex.join([f'--model={name}'])}"))
    found.append(("compare", f"python tools/compare_runs.py {shlex.quote(name)} ANOTHER_RUN"))
    train = f"python -m jaxsft.train {config} {shlex.join([f'--workdir={name}_2'])}"
    found.append(("next run", f"{train} --config.FIELD=VALUE"))
    found.append(("tokens", f"python tools/inspect_data.py {config} --limit=3"))
    return found


def where_figures_are(workdir: Workdir) -> str:
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
    return comparison.shown(name, value, missing="-")
