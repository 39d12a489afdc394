"""A chart as SVG that needs no script: what a page shows where scripts are off."""

import html
import math
from collections.abc import Iterator, Sequence

from jaxsft.report.page.curves import Chart, Curve, Mark

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 10, 28


def draw(chart: Chart, marks: Sequence[Mark]) -> str:
    """An <svg> in the colours of the page around it."""
    axes = _Axes(chart)
    label = html.escape(chart.alternative, quote=True)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">',
        *_grid(chart, axes),
        *(
            f'<line class="mark" x1="{axes.x(one.x):.1f}" x2="{axes.x(one.x):.1f}"'
            f' y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            for one in marks
            if axes.least <= one.x <= axes.most
        ),
        *(part for curve in chart.curves for part in _drawn(curve, axes)),
        "</svg>",
    ]
    return "".join(parts)


class _Axes:
    """From a step and a value to a place in the drawing."""

    def __init__(self, chart: Chart):
        known = [point for curve in chart.curves for point in curve.known]
        self.least, self.most = min(x for x, _ in known), max(x for x, _ in known)
        values = [y for _, y in known]
        low = min(values) if not chart.from_zero or min(values) < 0 else 0.0
        high = max(values)
        self.ticks = ticks(low, high if high > low else low + 1)
        self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def x(self, step: float) -> float:
        span = (self.most - self.least) or 1
        return _LEFT + (step - self.least) / span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover a range: `(0, 0.9)` -> `[0, 0.2, 0.4, 0.6, 0.8, 1.0]`."""
    rough = (high - low) / wanted
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def _grid(chart: Chart, axes: _Axes) -> Iterator[str]:
    for value in axes.ticks:
        y = axes.y(value)
        text = f"{value:.0%}" if chart.percent and axes.high >= 0.05 else f"{value:.3g}"
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    span = axes.most - axes.least
    whole = {round(value) for value in ticks(axes.least, axes.most, 6)} if span else {axes.least}
    for step in sorted(value for value in whole if axes.least <= value <= axes.most):
        x = axes.x(step)
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{step:,.0f}</text>'


def _drawn(curve: Curve, axes: _Axes) -> Iterator[str]:
    style = f'style="--c: var(--series-{curve.color})"'
    path, pen = [], "M"
    for x, y in zip(curve.xs, curve.ys, strict=True):
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{axes.x(x):.1f} {axes.y(y):.1f}")
        pen = "L"
    kind = "curve dashed" if curve.dashed else "curve"
    yield f'<path class="{kind}" {style} d="{"".join(path)}"/>'
    if curve.held_out or len(curve.known) <= 12:
        for x, y in curve.known[:200]:
            yield f'<circle class="dot" {style} cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3"/>'
