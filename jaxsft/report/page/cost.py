"""What a run cost: where its time went, what it used, and the price."""

import dataclasses
from collections.abc import Sequence

from jaxsft.devices import progress
from jaxsft.report.page import facts, predictions
from jaxsft.report.run_read import RunFiles


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    text: str
    share: float  # percent
    color: int


@dataclasses.dataclass(frozen=True)
class Cost:
    parts: Sequence[Part]
    lines: Sequence[tuple[str, str]]
    predictions: Sequence[predictions.Row]


def cost_of(run: RunFiles) -> Cost:
    seconds = _seconds(run)
    total = sum(seconds.values())
    parts = [
        Part(
            name,
            f"{facts.duration(value)} ({value / total:.1%})",
            100 * value / total,
            place % 8 + 1,
        )
        for place, (name, value) in enumerate(seconds.items())
        if value > 0
    ]
    return Cost(parts, _lines(run, seconds, total), predictions.rows_of(run))


_STEPS, _WAITS, _BETWEEN, _LOST = "steps", "waiting for data", "saves and the like", "lost"
# What the phases of a program are called on the page.
_PHASES = {
    progress.OPENING: "model",
    "reading weights": "model",
    "preparing data": "data",
    "compiling": "compile",
    "evaluating": "evaluation",
    "answering": "evaluation",
    "exporting": "export and report",
    "writing the report": "export and report",
    progress.STARTING: "start",
    "saving": _BETWEEN,
}


def _seconds(run: RunFiles) -> dict[str, float]:
    """Of all starts together, as far as starts.jsonl is there."""
    totals = run.totals
    waited = min(totals.wait_seconds, totals.step_seconds)
    found = {_STEPS: totals.step_seconds - waited, _WAITS: waited}
    if not run.starts:
        return found | _of_the_last_start(run, sum(found.values()))
    stepped = sum(one.step_seconds for one in run.starts)
    between = 0.0
    for one in run.starts:
        for phase, seconds in one.seconds.items():
            if phase == progress.TRAINING:
                between += max(seconds - one.step_seconds, 0.0)
            else:
                name = _PHASES.get(phase, "other")
                found[name] = found.get(name, 0.0) + seconds
    lost = max(stepped - totals.step_seconds, 0.0) if len(run.starts) > 1 else 0.0
    return found | {_BETWEEN: found.get(_BETWEEN, 0.0) + between, _LOST: lost}


def _of_the_last_start(run: RunFiles, known: float) -> dict[str, float]:
    """What a run of an earlier version left word of."""
    start = {n: s for n, s in run.summary.start_seconds.items() if n != "first step"}
    found = {f"start: {name}": value for name, value in start.items()}
    wall = run.summary.wall_seconds
    rest = 0.0 if wall is None else wall - known - sum(found.values())
    return found | {"evaluation, saves and export": max(rest, 0.0)}


def _lines(run: RunFiles, seconds: dict[str, float], total: float) -> list[tuple[str, str]]:
    summary, totals = run.summary, run.totals
    mfu = facts.median([line.mfu for line in run.steps])
    price = (run.config.get("log") or {}).get("price_per_hour")
    wall = total if run.starts else summary.wall_seconds or total
    lost = seconds.get(_LOST)
    lines = {
        "time": facts.duration(wall) if wall else None,
        "of it training": f"{seconds['steps'] / total:.1%}" if total else None,
        "starts": f"{len(run.starts)}" if run.starts else None,
        "lost to restarts": facts.duration(lost) if lost else None,
        "tokens": f"{totals.tokens:,}" if totals.tokens else None,
        "supervised tokens": f"{totals.supervised_tokens:,}" if totals.supervised_tokens else None,
        "MFU in steps": None if mfu is None else f"{mfu:.1%}",
        "MFU of the whole time": (
            None if mfu is None or not total else f"{mfu * seconds['steps'] / total:.1%}"
        ),
        **facts.peaks(run),
        "price": f"{price * wall / 3600:.2f} at {price:g} an hour" if price and wall else None,
    }
    return [(name, value) for name, value in lines.items() if value is not None]
