"""report.html: what a run did, on one page that needs nothing but itself.

Written from the files of the run directory alone, so a run that ended early has its page too.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from jaxsft.data.cache.manifest import CacheReport
from jaxsft.data.report import data_report as data_report_file
from jaxsft.data.report.data_report import DataReport
from jaxsft.files import records, run_names
from jaxsft.files.whole_files import write_text
from jaxsft.report import comparison, failure_record, weight_change
from jaxsft.report import summary as summary_file
from jaxsft.report.failure_record import FailureRecord
from jaxsft.report.figures import draw_curves
from jaxsft.report.summary import Summary
from jaxsft.rundir.checkpoint.notes import Best
from jaxsft.rundir.metric_lines import Line, read_lines
from jaxsft.rundir.sample import Sample
from jaxsft.rundir.step_figures import StepFigures, figures_of, is_of_steps
from jaxsft.terminal.redact import redacted_values

PHASES = {
    "before": "before",
    "before_with_instruction": "before, instructed",
    "after": "after",
}
TOKEN_KINDS = ("supervised", "context", "truncated", "dropped", "held_out")
MAX_EXAMPLE_TOKENS = 1500
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of a run directory; what is missing is empty."""

    ended: str | None  # why, of a run that was stopped
    config: dict[str, Any]
    data_report: DataReport
    steps: list[StepFigures]
    evaluations: list[Line]
    samples: list[Sample]
    summary: Summary
    finished: bool
    error: FailureRecord | None
    unreadable: tuple[str, ...]


def write_report(workdir: Path, ended: str | None = None) -> Path:
    """Writes <workdir>/report.html from the files beside it, and returns its path.

    Args:
        ended: why, of a run that was stopped before its end; of a failure error.json says it.
    """
    run = read_run(workdir, ended)
    page = _page(run, workdir.resolve().name)
    path = workdir / run_names.REPORT
    write_text(path, page)
    return path


def read_run(workdir: Path, ended: str | None = None) -> RunFiles:
    unreadable: list[str] = []
    metrics = _lines(workdir / run_names.METRICS, unreadable)
    found = _json_file(workdir / run_names.SUMMARY, unreadable)
    summary = summary_file.from_json(found)
    last = max((line["step"] for line in metrics), default=0)
    finished = bool(found) and last <= (last if summary.steps is None else summary.steps)
    error = redacted_values(_json_file(workdir / run_names.ERROR, unreadable))
    data_report = _json_file(workdir / run_names.DATA_REPORT, unreadable)
    return RunFiles(
        ended=ended,
        config=redacted_values(_json_file(workdir / run_names.CONFIG, unreadable)),
        steps=[figures_of(line) for line in metrics if is_of_steps(line)],
        evaluations=[line for line in metrics if any(key.startswith("eval/") for key in line)],
        samples=_samples(workdir / run_names.SAMPLES, unreadable),
        summary=summary if finished else summary.without_its_end(),
        finished=finished,
        data_report=data_report_file.from_json(redacted_values(data_report)),
        error=failure_record.from_json(error) if error else None,
        unreadable=tuple(unreadable),
    )


def _json_file(path: Path, unreadable: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        unreadable.append(path.name)
        return {}
    return value


def _lines(path: Path, unreadable: list[str]) -> list[Line]:
    try:
        found, numbers, _ = read_lines(path)
    except OSError:
        unreadable.append(path.name)
        return []
    unreadable += [f"{path.name}, line {number}" for number in numbers]
    return found


def _samples(path: Path, unreadable: list[str]) -> list[Sample]:
    lines = redacted_values(_lines(path, unreadable))
    return [records.from_json(Sample, line) for line in lines]


def _page(run: RunFiles, name: str) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    comparisons = comparison.compared(*_before_after(run))
    samples = _samples_by_prompt(run.samples)
    return template.render(
        name=name,
        status=_status(run),
        notices=_notices(run),
        verdict=comparison.verdict(comparisons),
        facts=_facts(run),
        figures=draw_curves(run.steps, run.evaluations),
        comparisons=comparisons,
        kept_base=run.summary.kept_base,
        moved=weight_change.rows(run.summary.weights),
        moved_layers=[
            (layer, f"{share:.3%}") for layer, share in weight_change.by_layer(run.summary.weights)
        ],
        phases={k: v for k, v in PHASES.items() if any(k in answers for answers in samples)},
        samples=samples,
        example=_example(run.summary.example),
        accounts=[_account(*item) for item in _data(run).items()],
        choices=run.summary.choices,
        config=list(_flatten(run.config)),
        versions=run.summary.versions,
        command=run.summary.command,
        export=run.summary.export,
    )


def _status(run: RunFiles) -> str:
    if run.finished:
        return "finished"
    total = run.data_report.plan.steps if run.data_report.plan else None
    of = "" if total is None else f" of {total:,}"
    done = f"after step {run.steps[-1].step:,}{of}" if run.steps else "before its first step"
    return f"{'failed' if run.error else 'stopped' if run.ended else 'not finished'} {done}"


def _notices(run: RunFiles) -> list[str]:
    notices = [f"{file} can't be read and is left out." for file in run.unreadable]
    if run.error:
        which = "A later start of the run" if run.finished else "The run"
        notices.append(f"{which} ended with an error: {run.error.message}")
    elif run.ended:
        which = "A later start of the run" if run.finished else "The run"
        notices.append(f"{which} ended early: {run.ended}")
    skipped = run.steps[-1].skipped_steps if run.steps else 0
    if skipped:
        notices.append(f"{skipped:,} steps were skipped: their gradients were not finite.")
    failed = run.steps[-1].checkpoint_failures if run.steps else 0
    if failed:
        notices.append(f"{failed:,} saves of a checkpoint failed, and others were made since.")
    if any(line.loss is None for line in run.steps):
        notices.append("Some steps have no finite loss; the curves have gaps there.")
    return notices


def _before_after(run: RunFiles) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The summary's figures; while there is no summary, the first and the last evaluation."""
    if run.summary.before or run.summary.after:
        return run.summary.before, run.summary.after
    first = run.evaluations[0]["step"] if run.evaluations else None
    last = run.evaluations[-1]["step"] if run.evaluations else None
    before = comparison.figures_at(run.evaluations, first)
    return before, comparison.figures_at(run.evaluations, last) if last != first else {}


# --- facts


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    summary, last = run.summary, run.steps[-1] if run.steps else None
    rate = _median([line.tokens_per_second for line in run.steps])
    packing = _mean([line.packing_efficiency for line in run.steps])
    mfu = _median([line.mfu for line in run.steps])
    step = last.step if last and summary.steps is None else summary.steps
    epoch = last.epoch if last and summary.epochs is None else summary.epochs
    memory, parameters = summary.peak_memory_bytes, summary.parameters
    facts = {
        "model": summary.model or (run.config.get("model") or {}).get("source"),
        "parameters": None if parameters is None else _count(parameters),
        "teacher": (run.config.get("distil") or {}).get("teacher"),
        "KL(teacher || student)": _divergence(run.steps),
        "device": summary.device,
        "mesh": summary.mesh,
        "steps": None if step is None else f"{step:,}",
        "ended early": summary.ended,
        "changed on the way": "; ".join(
            f"{one.field} from {one.before!r} to {one.now!r} after step {one.step}"
            for one in summary.changes
        )
        or None,
        "best": None if summary.best is None else _best(summary.best, summary.exported_step),
        "epochs": None if epoch is None else f"{epoch:.2f}",
        "time": _duration(summary.wall_seconds),
        "peak memory": None if memory is None else f"{memory / 2**30:.2f} GiB",
        "speed": None if rate is None else f"{rate:,.0f} tokens/s",
        "MFU": None if mfu is None else f"{mfu:.1%}",
        "packing": None if packing is None else f"{packing:.1%} of each row is tokens",
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _divergence(steps: Sequence[StepFigures]) -> str | None:
    """In training, at the first and the last step that it is known of; None: no teacher."""
    known = [value for line in steps if (value := line.others.get("kl")) is not None]
    return f"{known[0]:.4f}, at last {known[-1]:.4f} nats" if known else None


def _best(best: Best, exported: int | None) -> str:
    said = f"{best.metric} {best.value:.4f} after step {best.step:,}"
    return f"{said}, which is exported" if exported == best.step else said


def _count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:g}"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _median(values: Sequence[float | None]) -> float | None:
    """The first steps, which compile, don't move it."""
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


# --- data, answers, config


@dataclasses.dataclass(frozen=True)
class ShownToken:
    text: str
    weight: str
    supervised: bool


@dataclasses.dataclass(frozen=True)
class ShownExample:
    tokens: list[ShownToken]
    more: int  # tokens that are not shown
    supervised: int  # of all


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownAccount:
    """Where every row and token of a cache went; `balanced` says whether the sums agree."""

    name: str
    rows_in: int
    rows_out: int
    held_out: int
    dropped: Mapping[str, int]  # rows, by reason
    examples: int
    rows_balanced: bool
    rendered: int  # tokens
    kinds: Mapping[str, int]  # tokens
    tokens_balanced: bool
    shares: Mapping[str, float]  # percent of the tokens, by kind


def _example(tokens: Sequence[tuple[str, float]]) -> ShownExample:
    """The tokens as drawn: a line break is shown as a mark before it breaks the line."""
    shown = [
        ShownToken(text.replace("\n", "⏎\n"), f"{weight:g}", weight > 0)
        for text, weight in tokens[:MAX_EXAMPLE_TOKENS]
    ]
    supervised = sum(weight > 0 for _, weight in tokens)
    return ShownExample(shown, len(tokens) - len(shown), supervised)


def _data(run: RunFiles) -> Mapping[str, CacheReport]:
    """The report of each cache, by name: known from before the first step."""
    known = run.data_report
    found = {"train": known.train, **known.held_out} if known.train.rows_in else {}
    return run.summary.data or found


def _account(name: str, report: CacheReport) -> ShownAccount:
    tokens = vars(report.tokens)
    rendered = report.tokens.rendered
    kinds = {k: tokens[k] for k in TOKEN_KINDS if tokens[k] or k != "held_out"}
    return ShownAccount(
        name=name,
        rows_in=report.rows_in,
        rows_out=report.rows_out,
        dropped=report.dropped,
        examples=report.examples,
        held_out=report.held_out,
        rows_balanced=report.rows_in
        == report.rows_out + report.held_out + sum(report.dropped.values()),
        rendered=rendered,
        kinds=kinds,
        tokens_balanced=rendered == sum(kinds.values()),
        shares={kind: 100 * count / rendered if rendered else 0 for kind, count in kinds.items()},
    )


def _samples_by_prompt(samples: Sequence[Sample]) -> list[dict[str, Sample]]:
    """One dict for each prompt, in the order asked: phase -> its sample, the newest if repeated."""
    prompts: dict[tuple[str | None, int | None], dict[str, Sample]] = {}
    for sample in samples:
        prompts.setdefault((sample.source, sample.row), {})[sample.phase] = sample
    return list(prompts.values())


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """`{"data": {"train": [{"path": "x"}]}}` -> `("data.train[0].path", "x")`."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _flatten(item, f"{name}[{index}]")
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value)
