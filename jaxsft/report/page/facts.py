"""The facts of a run in a line each: model, device, steps, time, speed."""

from collections.abc import Sequence

from jaxsft.report.run_read import RunFiles
from jaxsft.rundir.checkpoint.notes import Best
from jaxsft.rundir.step_figures import StepFigures


def facts(run: RunFiles) -> list[tuple[str, str]]:
    summary, last = run.summary, run.steps[-1] if run.steps else None
    rate = median([line.tokens_per_second for line in run.steps])
    packing = mean([line.packing_efficiency for line in run.steps])
    mfu = median([line.mfu for line in run.steps])
    step = last.step if last and summary.steps is None else summary.steps
    epoch = last.epoch if last and summary.epochs is None else summary.epochs
    parameters = summary.parameters
    facts = {
        "model": _short(summary.model or (run.config.get("model") or {}).get("source")),
        "parameters": None if parameters is None else count(parameters),
        "teacher": (run.config.get("distil") or {}).get("teacher"),
        "KL(teacher || student)": _divergence(run.steps),
        "device": summary.device,
        "mesh": summary.mesh,
        "steps": None if step is None else f"{step:,}",
        "ended early": summary.ended,
        "best": None if summary.best is None else _best(summary.best, summary.exported_step),
        "epochs": None if epoch is None else f"{epoch:.2f}",
        "time": duration(summary.wall_seconds),
        **peaks(run),
        "speed": None if rate is None else f"{rate:,.0f} tokens/s",
        "MFU": None if mfu is None else f"{mfu:.1%}",
        "packing": None if packing is None else f"{packing:.1%} of each row is tokens",
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def peaks(run: RunFiles) -> dict[str, str | None]:
    """The most memory that the last start's first process held, each by its name."""
    device = run.starts[-1].device_bytes if run.starts else None
    return {
        "peak memory of a device": gib(device),
        "peak RAM of the process": gib(run.summary.peak_memory_bytes),
    }


def gib(size: float | None) -> str | None:
    return None if size is None else f"{size / 2**30:.2f} GiB"


def _short(source: str | None) -> str | None:
    """A file's or directory's name without the path to it; a hub id as it is."""
    if source is None or source.count("/") < 2:
        return source
    return f"…/{source.rstrip('/').rpartition('/')[2]}"


def _divergence(steps: Sequence[StepFigures]) -> str | None:
    """In training, at the first and the last step that it is known of; None: no teacher."""
    known = [value for line in steps if (value := line.others.get("kl")) is not None]
    return f"{known[0]:.4f}, at last {known[-1]:.4f} nats" if known else None


def _best(best: Best, exported: int | None) -> str:
    said = f"{best.metric} {best.value:.4f} after step {best.step:,}"
    return f"{said}, which is exported" if exported == best.step else said


def count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:g}"


def duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def median(values: Sequence[float | None]) -> float | None:
    """The first steps, which compile, don't move it."""
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None
