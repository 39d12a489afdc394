"""Several runs on one page: what differs in their configs first, then what came of it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import markupsafe

from jaxsft.files.whole_files import write_text
from jaxsft.report import comparison, verdict
from jaxsft.report.page import again, cost, curves, static_svg, write
from jaxsft.report.run_read import RunFiles, read_run

_MISSING = "–"


@dataclasses.dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False


def write_comparison(directories: Sequence[Path], output: Path) -> list[tuple[str, str]]:
    """Writes the page; the name of each run with its verdict."""
    found = [read_run(directory) for directory in directories]
    names = names_of(directories)
    runs = [dataclasses.replace(run, name=name) for run, name in zip(found, names, strict=True)]
    verdicts = [verdict.verdict_of(run) for run in runs]
    charts = curves.charts_of(runs)
    page = write.rendered(
        "compare.html.jinja",
        runs=list(zip(names, verdicts, strict=True)),
        differences=differences(runs),
        figures=figures(runs),
        spent=_spent(runs),
        charts=[(chart, markupsafe.Markup(static_svg.draw(chart, ()))) for chart in charts],
        curves=write.script_json(curves.plain(charts, ())),
    )
    write_text(output, page)
    return [(name, one.sentence) for name, one in zip(names, verdicts, strict=True)]


def names_of(directories: Sequence[Path]) -> list[str]:
    """As much of the ends of their paths as tells them apart."""
    paths = [directory.resolve().parts for directory in directories]
    for length in range(1, max(map(len, paths))):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{place}: {parts[-1]}" for place, parts in enumerate(paths, 1)]


def differences(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """Each field of the configs whose value is not the same in all, with those values; a field
    that is its default in each is left out."""
    configs = [dict(again.flatten(run.config)) for run in runs]
    given = [one for run in runs for one, _, _ in again.differing(run.config)]
    # A field that holds several values stands for each of them: "optim.betas" for "optim.betas[0]".
    fields = dict.fromkeys(
        field for config in configs for field in config if again.within(field, given)
    )
    rows = [(field, [config.get(field, _MISSING) for config in configs]) for field in fields]
    return [(field, values) for field, values in rows if len(set(values)) > 1]


def figures(runs: Sequence[RunFiles]) -> list[tuple[str, list[Cell]]]:
    """Each figure of held-out data at the runs' ends; the best of all is marked."""
    afters = [run.before_after[1] for run in runs]
    labels = {one.figure: one.name for after in afters for one in comparison.compared({}, after)}
    rows = []
    for name, label in labels.items():
        values = [after.get(name) for after in afters]
        known = [value for value in values if value is not None]
        best = (max if comparison.is_share(name) else min)(known)
        differs = len(set(known)) > 1
        cells = [Cell(comparison.shown(name, v), differs and v == best) for v in values]
        rows.append((label, cells))
    return rows


def _spent(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    found = [cost.cost_of(run) for run in runs]
    costs = [
        dict(one.lines)
        | {f"{row.what}, predicted": row.predicted for row in one.predictions}
        | {f"{row.what}, measured": row.measured for row in one.predictions}
        for one in found
    ]
    names = dict.fromkeys(name for one in costs for name in one)
    return [(name, [one.get(name, _MISSING) for one in costs]) for name in names]
