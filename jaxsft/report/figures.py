"""The curves of metrics.jsonl as inline SVG, in colours that the page around them decides."""

import dataclasses
import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from jaxsft.rundir.metric_lines import Line
from jaxsft.rundir.step_figures import StepFigures

# Drawn in stand-in colours, which become CSS variables: the page decides between light and dark.
_INK, _GRID = "#010101", "#020202"
_SERIES = ("#030303", "#040404", "#050505", "#060606")
_CSS_COLORS = {_INK: "var(--muted)", _GRID: "var(--grid)"} | {
    color: f"var(--series-{index})" for index, color in enumerate(_SERIES, 1)
}

Curve = tuple[str, list[int], list[float]]  # name, steps, values


@dataclasses.dataclass(frozen=True)
class Drawing:
    title: str
    names: list[str]  # of its curves, where there may be several
    svg: str


def draw_curves(steps: Sequence[StepFigures], evaluations: Sequence[Line]) -> list[Drawing]:
    """Loss, learning rate, gradient norm and speed; what the lines don't hold is not drawn."""
    evaluated = dict.fromkeys(k for line in evaluations for k in line if k.endswith("/loss"))
    losses = [_of_steps("training", steps, "loss")] + [
        _curve(
            name.removeprefix("eval/").removesuffix("/loss"),
            [(line["step"], line[name]) for line in evaluations if name in line],
        )
        for name in evaluated
    ]
    plans = (
        ("Loss, nats per supervised token", losses),
        ("Learning rate", [_of_steps("learning rate", steps, "learning_rate")]),
        ("Gradient norm before clipping", [_of_steps("gradient norm", steps, "grad_norm")]),
        ("Tokens per second", [_of_steps("tokens per second", steps, "tokens_per_second")]),
    )
    drawings = []
    for index, (title, curves) in enumerate(plans):
        drawn = [curve for curve in curves if curve[1]]
        if drawn:
            names = [curve[0] for curve in drawn] if len(curves) > 1 else []
            svg = _svg(drawn, _alternative(title, drawn), f"figure{index}")
            drawings.append(Drawing(title, names, svg))
    return drawings


def _of_steps(name: str, steps: Sequence[StepFigures], field: str) -> Curve:
    return _curve(name, [(one.step, getattr(one, field)) for one in steps])


def _curve(name: str, points: Sequence[tuple[int, float | None]]) -> Curve:
    """Missing and non-finite values are nan, which leaves a gap."""
    steps = [step for step, _ in points]
    values = [math.nan if value is None else value for _, value in points]
    return (name, steps, values) if any(map(math.isfinite, values)) else (name, [], [])


def _alternative(title: str, curves: Sequence[Curve]) -> str:
    ends = []
    for name, steps, values in curves:
        known = [pair for pair in zip(steps, values, strict=True) if math.isfinite(pair[1])]
        (first, start), (last, end) = known[0], known[-1]
        ends.append(f"{name} from {start:.4g} at step {first} to {end:.4g} at step {last}")
    return f"{title}: {'; '.join(ends)}."


def _svg(curves: Sequence[Curve], alternative: str, prefix: str) -> str:
    """An inline SVG without a size of its own, coloured by the page."""
    # Half a second to import: every start would pay for what only a run's end needs.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": prefix,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.6, 2.9))
        axes = figure.add_axes((0.13, 0.17, 0.85, 0.78))  # a computed layout takes a second
        for index, (_, steps, values) in enumerate(curves):
            marker = "o" if len(steps) <= 12 else None
            color = _SERIES[index % len(_SERIES)]
            line = axes.plot(steps, values, color=color, linewidth=1.8, marker=marker, markersize=5)
            line[0].set_clip_on(False)  # or a curve that reaches 0 loses half its width
        axes.set_xlabel("step", color=_INK)
        axes.tick_params(colors=_INK, length=0)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.spines[["top", "left", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.set_ylim(bottom=0)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    return _inline(file.getvalue(), alternative, prefix)


def _inline(svg: str, alternative: str, prefix: str) -> str:
    """Keeps what a page needs of an SVG file; ids get a prefix, being shared by a whole page."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    for color, variable in _CSS_COLORS.items():
        body = body.replace(color, variable)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box
    label = html.escape(alternative, quote=True)
    return f'<svg {box[0]} role="img" aria-label="{label}">{body}'
