"""report.html: what a run did, on one page that needs nothing but itself.

Written from the files of the run directory alone, so a run that ended early has its page too, and
one that lasts.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from jaxsft.files import run_names
from jaxsft.files.whole_files import write_text
from jaxsft.report import cautions, comparison, ranges, verdict
from jaxsft.report.page import again, answers, cost, curves, facts, moved, static_svg, trained
from jaxsft.report.run_read import RunFiles, read_run

_LASTS = '<main data-lasts="true">'
_FOLDER = Path(__file__).parent
# Characters that could end a script element, or a line in JavaScript, are spelt as JSON allows.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def write_report(workdir: Path, ended: str | None = None, lasts: bool = False) -> Path:
    """Writes <workdir>/report.html from the files beside it, and returns its path.

    Args:
        ended: why, of a run that was stopped before its end; of a failure error.json says it.
        lasts: the run goes on.
    """
    page = page_of(read_run(workdir, ended, lasts))
    path = workdir / run_names.REPORT
    write_text(path, page)
    return path


def is_of_a_run_that_lasts(page: Path) -> bool:
    """Whether a report was written on the way, and no end has come since."""
    return _LASTS in page.read_text(encoding="utf-8", errors="replace")


def page_of(run: RunFiles) -> str:
    """The page of one run."""
    charts, marks = curves.charts_of([run]), curves.marks_of(run)
    return rendered(
        "report.html.jinja",
        name=run.name,
        status=_status(run),
        lasts=run.lasts,
        verdict=verdict.verdict_of(run),
        cautions=cautions.cautions_of(run),
        facts=facts.facts(run),
        comparisons=comparison.compared(*run.before_after, *ranges.ranges_of(run)),
        answers=answers.cards_of(run),
        figures=[(chart, markupsafe.Markup(static_svg.draw(chart, marks))) for chart in charts],
        curves=script_json(curves.plain(charts, marks)),
        kept_base=run.summary.kept_base,
        moved=moved.moved_of(run),
        examples=trained.examples(run.summary),
        accounts=[trained.account(*item) for item in trained.reports(run).items()],
        cost=cost.cost_of(run),
        choices=run.summary.choices,
        config=list(again.flatten(run.config)),
        differing=again.differing(run.config),
        base_file=run.base_file,
        from_base=again.from_base(run),
        overrides=again.overrides(run.command),
        prints=again.prints(run),
        versions=run.summary.versions,
        command=run.command,
        export=run.summary.export,
    )


def rendered(template: str, **values: Any) -> str:
    """A page of one of the templates here, with the style and the script of all of them."""
    style, script = (
        markupsafe.Markup((_FOLDER / name).read_text(encoding="utf-8"))
        for name in ("style.css", "script.js")
    )
    return _environment().get_template(template).render(style=style, script=script, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script_json(value: Any) -> markupsafe.Markup:
    """JSON for inside a script element, which nothing in it ends."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return markupsafe.Markup(text.translate(_ESCAPES))


def _status(run: RunFiles) -> str:
    if run.finished:
        return "finished"
    total = run.data_report.plan.steps if run.data_report.plan else None
    of = "" if total is None else f" of {total:,}"
    steps: Sequence[Any] = run.steps
    done = f"after step {steps[-1].step:,}{of}" if steps else "before its first step"
    if run.lasts:
        return f"running, {done}"
    return f"{'failed' if run.error else 'stopped' if run.ended else 'not finished'} {done}"
