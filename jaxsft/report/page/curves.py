"""The curves of metrics.jsonl: what they show, thinned, as data for the page's script."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxsft.report.run_read import RunFiles
from jaxsft.rundir.step_figures import StepFigures

MAX_POINTS = 1000  # of a curve: of more, the least and the greatest of each stretch
MAX_CURVES = 12  # on the same axes
_MAX_MARKS = 20  # of a kind
_SOURCE = "loss/"  # how the names of the losses of one source begin


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]  # None: a gap
    color: int = 1  # 1 to 8, of the page
    held_out: bool = False  # drawn with its points
    dashed: bool = False

    @property
    def known(self) -> list[tuple[float, float]]:
        pairs = zip(self.xs, self.ys, strict=True)
        return [(x, y) for x, y in pairs if y is not None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """A moment that is drawn as a line from top to bottom."""

    x: float
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    title: str
    curves: Sequence[Curve]
    left_out: int = 0  # curves
    from_zero: bool = True
    percent: bool = False

    @property
    def alternative(self) -> str:
        """In words."""
        ends = []
        for curve in self.curves:
            (first, start), (last, end) = curve.known[0], curve.known[-1]
            ends.append(
                f"{curve.name} from {start:.4g} at step {first:g} to {end:.4g} at step {last:g}"
            )
        return f"{self.title}: {'; '.join(ends)}."


def charts_of(runs: Sequence[RunFiles]) -> list[Chart]:
    """The charts of a run, or of several on the same axes; what no line holds is not drawn."""
    several = len(runs) > 1
    kinds: list[tuple[str, list[Curve], dict[str, bool]]] = [
        ("Loss, nats per supervised token", _each(runs, _losses, several), {}),
        ("Answers and accuracy", _each(runs, _shares, several), {"percent": True}),
    ]
    for title, get, form in _FIGURES:
        kinds.append((title, _each(runs, _getter(title, get), several), form))
    return [
        Chart(
            title=title, curves=drawn[:MAX_CURVES], left_out=max(len(drawn) - MAX_CURVES, 0), **form
        )
        for title, curves, form in kinds
        if (drawn := [curve for curve in curves if curve.known])
    ]


def marks_of(run: RunFiles) -> list[Mark]:
    """Where an epoch ends and where a start went on, if there are few."""
    again = [Mark(x=one.step, text="restart") for one in run.starts if one.step]
    marks, epoch = [], 0
    for line in run.steps:
        whole = math.floor((line.epoch or 0) + 1e-9)
        if whole > epoch:
            marks.append(Mark(x=line.step, text=f"epoch {whole} ends"))
            epoch = whole
    return [one for kind in (again, marks) if len(kind) <= _MAX_MARKS for one in kind]


def plain(charts: Iterable[Chart], marks: Sequence[Mark]) -> dict[str, Any]:
    """For the script."""
    return {
        "marks": [{"x": one.x, "text": one.text} for one in marks],
        "charts": [
            {
                "zero": chart.from_zero,
                "percent": chart.percent,
                "curves": [
                    {
                        "name": curve.name,
                        "color": curve.color,
                        "points": curve.held_out,
                        "dashed": curve.dashed,
                        "x": list(curve.xs),
                        "y": [None if y is None else float(f"{y:.5g}") for y in curve.ys],
                    }
                    for curve in chart.curves
                ],
            }
            for chart in charts
        ],
    }


_Curves = Callable[[RunFiles], list[Curve]]


def _each(runs: Sequence[RunFiles], curves_of: _Curves, several: bool) -> list[Curve]:
    """Colours tell the curves of a run apart, or the runs."""
    found = []
    for place, run in enumerate(runs):
        for index, curve in enumerate(curves_of(run)):
            name = f"{run.name}: {curve.name}" if several else curve.name
            color = (place if several else index) % 8 + 1
            dashed = curve.dashed or (several and index % 2 == 1)
            found.append(dataclasses.replace(curve, name=name, color=color, dashed=dashed))
    return found


def _losses(run: RunFiles) -> list[Curve]:
    """In training, also by source, and on each held-out set."""
    sources = sorted({k for line in run.steps for k in line.others if k.startswith(_SOURCE)})
    of_steps = [_curve("training", [(line.step, line.loss) for line in run.steps])]
    if len(sources) > 1:
        of_steps += [
            _curve(
                f"training, {name.removeprefix(_SOURCE)}",
                [(line.step, line.others[name]) for line in run.steps if name in line.others],
            )
            for name in sources
        ]
    return of_steps + _evaluated(run, lambda name: name.endswith("/loss"))


def _shares(run: RunFiles) -> list[Curve]:
    training = [(line.step, line.token_accuracy) for line in run.steps]
    wanted = ("token_accuracy", "match")
    found = _evaluated(run, lambda name: name.rpartition("/")[2] in wanted)
    return [_curve("training, tokens", training), *found]


def _evaluated(run: RunFiles, wanted: Callable[[str], bool]) -> list[Curve]:
    names = dict.fromkeys(name for line in run.evaluations for name in line if wanted(name))
    return [
        _curve(
            _label(name),
            [(line["step"], _number(line, name)) for line in run.evaluations if name in line],
            held_out=True,
        )
        for name in names
        if name.startswith("eval/")
    ]


def _label(name: str) -> str:
    source, _, metric = name.removeprefix("eval/").rpartition("/")
    words = {"loss": "", "token_accuracy": ", tokens", "match": ", answers"}
    return f"held out, {source}{words.get(metric, f', {metric}')}"


def _number(line: Mapping[str, Any], name: str) -> float | None:
    value = line[name]
    return value if isinstance(value, int | float) else None


_Get = Callable[[StepFigures], float | None]
# What is drawn of the steps besides loss and accuracy.
_FIGURES: tuple[tuple[str, _Get, dict[str, bool]], ...] = (
    ("Learning rate", lambda line: line.learning_rate, {}),
    ("Gradient norm before clipping", lambda line: line.grad_norm, {}),
    ("Tokens per second", lambda line: line.tokens_per_second, {}),
    ("MFU", lambda line: line.mfu, {"percent": True}),
    ("Most memory so far, GiB", lambda line: _gib(line.memory_bytes), {}),
    (
        "Share of a step spent waiting for data",
        lambda line: (
            None
            if line.data_wait_seconds is None or not line.step_seconds
            else min(line.data_wait_seconds / line.step_seconds, 1.0)
        ),
        {"percent": True},
    ),
    ("Skipped steps so far", lambda line: line.skipped_steps or None, {}),
)


def _gib(value: float | None) -> float | None:
    return None if value is None else value / 2**30


def _getter(title: str, get: _Get) -> _Curves:
    def curves(run: RunFiles) -> list[Curve]:
        found = [_curve(title, [(line.step, get(line)) for line in run.steps])]
        limit = (run.config.get("optim") or {}).get("max_grad_norm")
        if get is _FIGURES[1][1] and isinstance(limit, int | float) and found[0].known:
            ends = [found[0].xs[0], found[0].xs[-1]]
            clipped = Curve(name="clipped to", xs=ends, ys=[limit, limit], dashed=True)
            found.append(clipped)
        return found

    return curves


def _curve(name: str, points: Sequence[tuple[int, float | None]], held_out: bool = False) -> Curve:
    thinned = thin([(x, y if y is None or math.isfinite(y) else None) for x, y in points])
    xs, ys = [x for x, _ in thinned], [y for _, y in thinned]
    return Curve(name=name, xs=xs, ys=ys, held_out=held_out)


def thin(points: Sequence[tuple[int, float | None]]) -> list[tuple[int, float | None]]:
    """At most MAX_POINTS of them, so that no leap is lost: of each stretch both extremes."""
    if len(points) <= MAX_POINTS:
        return list(points)
    length = math.ceil(2 * len(points) / (MAX_POINTS - 2))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), length):
        known = [
            (y, place)
            for place, (_, y) in enumerate(points[start : start + length], start)
            if y is not None
        ]
        if known:
            kept |= {min(known)[1], max(known)[1]}
    return [points[place] for place in sorted(kept)]
