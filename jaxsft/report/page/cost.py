"""What a run cost: where its time went, what it used, and the price."""

import dataclasses
from collections.abc import Sequence

from jaxsft.report.page import facts
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
    predicted: Sequence[tuple[str, str, str]]  # what, as predicted, as measured


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
    return Cost(parts, _lines(run, seconds, total), [])


def _seconds(run: RunFiles) -> dict[str, float]:
    """Of the steps of all starts; of what came before and after them, that of the last start."""
    totals, start = run.totals, run.summary.start_seconds
    waited = min(totals.wait_seconds, totals.step_seconds)
    found = {"steps": totals.step_seconds - waited, "waiting for data": waited}
    found |= {f"start: {name}": value for name, value in start.items() if name != "first step"}
    wall = run.summary.wall_seconds
    rest = 0.0 if wall is None else wall - sum(found.values())
    return found | {"evaluation, saves and export": max(rest, 0.0)}


def _lines(run: RunFiles, seconds: dict[str, float], total: float) -> list[tuple[str, str]]:
    summary, totals = run.summary, run.totals
    mfu = facts.median([line.mfu for line in run.steps])
    memory = summary.peak_memory_bytes
    price = (run.config.get("log") or {}).get("price_per_hour")
    wall = summary.wall_seconds or total
    lines = {
        "time": facts.duration(wall) if wall else None,
        "of it training": f"{seconds['steps'] / total:.1%}" if total else None,
        "tokens": f"{totals.tokens:,}" if totals.tokens else None,
        "supervised tokens": f"{totals.supervised_tokens:,}" if totals.supervised_tokens else None,
        "MFU in steps": None if mfu is None else f"{mfu:.1%}",
        "MFU of the whole time": (
            None if mfu is None or not total else f"{mfu * seconds['steps'] / total:.1%}"
        ),
        "peak memory": None if memory is None else f"{memory / 2**30:.2f} GiB",
        "price": f"{price * wall / 3600:.2f} at {price:g} an hour" if price and wall else None,
    }
    return [(name, value) for name, value in lines.items() if value is not None]
