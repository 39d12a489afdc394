"""What a run was to cost, by its compiled step, beside what it did."""

import dataclasses

from jaxsft.report.page import facts
from jaxsft.report.run_read import RunFiles
from jaxsft.rundir.starts import Start
from jaxsft.training.predicted import Predicted

_UNKNOWN = "not known"


@dataclasses.dataclass(frozen=True)
class Row:
    what: str
    predicted: str
    measured: str


def rows_of(run: RunFiles) -> list[Row]:
    """Of the newest start; none where it left no prediction."""
    start = run.starts[-1] if run.starts else Start()
    made = start.predicted
    if made is None:
        return []
    step = facts.median([one.step_seconds for one in run.steps if one.step > start.step])
    found = [_memory(made, start), Row("a step", _step(made), _seconds(step))]
    if made.step_seconds is None or not made.num_steps:
        return found
    whole = made.num_steps * made.step_seconds
    if start.step or run.lasts or not run.finished:
        done = start.last - start.step
        predicted, name = done * made.step_seconds, f"{done:,} steps"
        taken = start.step_seconds if done else None
    else:
        predicted, name, taken = whole, f"all {made.num_steps:,} steps", run.totals.step_seconds
    found.append(Row(name, _seconds(predicted), _seconds(taken)))
    price = (run.config.get("log") or {}).get("price_per_hour")
    if price and taken is not None:
        said = (f"{price * one / 3600:.2f}" for one in (predicted, taken))
        found.append(Row(f"price of {name}", *said))
    return found


def _memory(made: Predicted, start: Start) -> Row:
    needed, limit = facts.gib(made.memory_bytes), facts.gib(made.limit_bytes)
    predicted = _UNKNOWN if needed is None else f"{needed} for a step"
    if needed is not None and limit is not None:
        predicted += f", of {limit} that it may use"
    if start.device_bytes is not None:
        measured = f"{facts.gib(start.device_bytes)}, the most of all its programs"
    elif made.in_ram:
        ram = facts.gib(start.host_bytes)
        shared = f" and {made.local_devices} devices" if made.local_devices > 1 else ""
        measured = f"not known; the process held {ram} of RAM, its libraries{shared} included"
    else:
        measured = "not known: the device doesn't say"
    return Row("memory of a device", predicted, measured)


def _step(made: Predicted) -> str:
    if made.step_seconds is None:
        return f"no prediction: {made.why}"
    return _seconds(made.step_seconds)


def _seconds(seconds: float | None) -> str:
    """Of a step, which may be short, or of many."""
    if seconds is None:
        return _UNKNOWN
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else facts.duration(seconds) or ""
