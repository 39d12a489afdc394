"""The data report in words and bars: for a terminal, and for a log file of 80 columns."""

from collections.abc import Mapping, Sequence

import rich.box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxsft.data.cache.manifest import CacheReport, SourceReport
from jaxsft.data.quality.figures import BinnedSpread, HintedRows, Quality
from jaxsft.data.report.data_report import DataReport, DataWarning, HeldOutReport, PlanReport
from jaxsft.data.report.warnings import ADVICE
from jaxsft.terminal.printable import printable

_BAR = 36  # characters of the longest
_EXAMPLES = 2  # of each hint
_SHOWN_FIGURES = ("min", "median", "mean", "p90", "p99", "max")
_NAMES = 5  # of files that aren't read again
# Counts of an account that are shown where they aren't 0.
_COUNTS = {
    "split_conversations": "conversations whose template rewrites earlier turns: an example for"
    " each turn",
    "truncated_examples": "examples without their oldest turns, which didn't fit",
    "truncated_turns": "supervised turns among those",
    "text_controls": "control tokens are spelt in rows of plain text and trained as such",
    "trained_headers": "examples train the header of an answer: the template has no prompt",
    "near_turns": "turns of long conversations are compared with their prompts near by only",
    "boundary_tokens": "tokens straddle a border of what is trained and are context",
    "control_text": "trained words spell a control token and stay text",
}


def print_report(report: DataReport, console: Console) -> None:
    """Warnings, rows and tokens, lengths, hints, the plan."""
    train, evals = report.train, report.held_out
    _print_warnings(report.warnings, console)
    _print_sources(train, evals, report.plan, console)
    print_account("train", train, console)
    for name, each in evals.items():
        print_account(f"eval {name}", each, console)
    _heading("Training data", console)
    quality = train.quality
    _print_histogram("tokens of a conversation", quality.tokens, console)
    _print_histogram("turns of the assistant", quality.turns, console)
    _print_repeats(quality, console)
    _print_hints(quality.hints, console)
    if report.plan:
        _print_plan(report.plan, console)


def print_account(name: str, report: CacheReport, console: Console) -> None:
    """Where every row and every token of one set went."""
    _heading(f"Rows and tokens of {name}", console)
    lost = sum(report.dropped.values())
    held_out = f" + {report.held_out:,} held out" if report.held_out else ""
    _line(
        f"{report.rows_in:,} rows = {report.rows_out:,} used{held_out} + {lost:,} dropped", console
    )
    for reason, rows in report.dropped.items():
        of_tokens = _share_of_tokens(report, reason)
        _line(f"  {rows:,} dropped{of_tokens}: {reason}", console)
    tokens = report.tokens
    for e in report.duplicates[:_EXAMPLES]:
        alike = "" if e.similarity is None else f", similarity {e.similarity}"
        _line(f"  for example {e.again}, after {e.first}{alike}", console)
    kinds = {kind: count for kind, count in vars(tokens).items() if kind != "rendered"}
    if not kinds["held_out"]:
        del kinds["held_out"]
    parts = " + ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in kinds.items())
    _line(f"{tokens.rendered:,} tokens rendered = {parts}", console)
    _line(f"{report.examples:,} examples", console)
    for reason, examples in report.dropped_examples.items():
        rows = report.dropped.get(reason, 0)  # each has such an example, and is told already
        of_tokens = "" if rows else _share_of_tokens(report, reason)
        if examples > rows:
            _line(f"  {examples - rows:,} more dropped{of_tokens}: {reason}", console)
    for count, what in _COUNTS.items():
        if found := vars(report)[count]:
            _line(f"{found:,} {what}", console)
    if report.unread_columns:
        named = ", ".join(f"{name} ({rows:,})" for name, rows in report.unread_columns.items())
        _line(f"columns and fields that nothing reads (rows that have them): {named}", console)
    if names := report.other_names:
        more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
        said = f"not read again, other names of files that are read: {', '.join(names[:_NAMES])}"
        _line(said + more, console)
    for row in report.bad_rows_by_cause:
        text = Text(printable(row), style="red")
        console.print(Padding(text, (0, 0, 0, 2), expand=False))


def _share_of_tokens(report: CacheReport, reason: str) -> str:
    tokens, rendered = report.dropped_tokens.get(reason, 0), report.tokens.rendered
    return f", {tokens / rendered:.1%} of the tokens" if tokens else ""


def _print_warnings(warnings: Sequence[DataWarning], console: Console) -> None:
    if not warnings:
        _heading("No warnings", console)
        return
    _heading("1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings", console)
    for warning in warnings:
        console.print(Text(printable(f"! {warning.text}"), style="yellow"))
        _line(warning.advice, console, indent=4)
        for example in warning.examples:
            _line(f"for example {example}", console, indent=4)


def _print_sources(
    train: CacheReport,
    evals: Mapping[str, HeldOutReport],
    plan: PlanReport | None,
    console: Console,
) -> None:
    """One row for each source; duplicates count the rows after the first."""
    head = ("rows", "used", "per epoch", "tokens", "trained", "same", "alike")
    table = Table("", *head, box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    per_epoch = plan.examples_per_epoch if plan else {}
    sources = train.sources
    for name, source in sources.items():
        table.add_row(_plain(name), *_source_cells(source, per_epoch.get(name)))
    if len(sources) > 1:
        table.add_row("all", *_source_cells(train, sum(per_epoch.values()) if plan else None))
    for name, each in evals.items():
        table.add_row(_plain(f"eval {name}"), *_source_cells(each, None))
    _heading("Sources", console)
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _source_cells(source: SourceReport, per_epoch: int | None) -> tuple[str, ...]:
    tokens, quality = source.tokens, source.quality
    used = tokens.supervised + tokens.context
    return (
        _short(source.rows_in),
        _short(source.rows_out),
        "" if per_epoch is None else _short(per_epoch),
        _short(used),
        f"{tokens.supervised / max(used, 1):.1%}",
        _short(quality.exact_duplicates.rows),
        _short(quality.near_duplicates.later_rows),
    )


def _short(number: int) -> str:
    """At most seven characters: 999,999 and then 1.0M."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:,}"


def _print_histogram(title: str, figures: BinnedSpread, console: Console) -> None:
    """One bar for each power of two; a line of figures where all rows have the same."""
    shown = {name: value for name, value in vars(figures).items() if name in _SHOWN_FIGURES}
    if figures.min == figures.max:
        _line(f"{title}: {figures.min:,}", console)
        return
    said = "  ".join(
        f"{name} {value:,.1f}" if name == "mean" else f"{name} {value:,}"
        for name, value in shown.items()
    )
    _line(f"{title}: {said}", console)
    most = max(bin_.rows for bin_ in figures.histogram)
    for bin_ in figures.histogram:
        low, high = bin_.start, bin_.below - 1
        label = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        bar = "#" * -(-_BAR * bin_.rows // most)
        _line(f"{label:>18} {bin_.rows:>9,} {bar}", console)


def _print_repeats(quality: Quality, console: Console) -> None:
    exact, near = quality.exact_duplicates, quality.near_duplicates
    prompts = quality.repeated_prompts
    _line(f"{exact.rows:,} rows repeat an earlier one", console)
    for e in exact.examples[:_EXAMPLES]:
        _line(f"{e.again} repeats {e.first}", console, indent=4)
    _line(f"{near.later_rows:,} rows have almost the words of an earlier one", console)
    for e in near.examples[:_EXAMPLES]:
        _line(f"{e.again} and {e.first}: similarity {e.similarity}", console, indent=4)
    _line(f"{prompts.rows:,} rows have the prompt of an earlier one, other answer", console)
    repeated = quality.repeated_answers
    about = "about " if repeated.sampled < repeated.answers else ""
    for e in repeated.examples:
        _line(f"{about}{e.share:.1%} of the answers: {e.text!r}", console)


def _print_hints(hints: Mapping[str, HintedRows], console: Console) -> None:
    if not hints:
        _line("no hints", console)
        return
    _heading("Hints in the training data", console)
    for kind, hint in sorted(hints.items(), key=lambda item: -item[1].rows):
        _line(f"{hint.rows:,} rows ({hint.share:.1%}): {kind}", console)
        _line(ADVICE[kind], console, indent=4)
        for example in hint.examples[:_EXAMPLES]:
            _line(f"{example.where}: {example.text}", console, indent=4)


def _print_plan(plan: PlanReport, console: Console) -> None:
    _heading("Plan", console)
    _line(
        f"{plan.packed_rows:,} packed rows of {plan.sequence_length:,} tokens,"
        f" {plan.fill:.1%} full",
        console,
    )
    _line(
        f"{plan.steps_per_epoch:,} steps of {plan.batch_size:,} rows are an epoch;"
        f" {plan.steps:,} steps, {plan.epochs:.2f} epochs in all",
        console,
    )
    fewest = plan.fewest_supervised_tokens
    said = "" if fewest is None else f", at least {fewest:,}"
    mean = plan.supervised_tokens_per_step
    _line(f"{mean:,.0f} supervised tokens a step on average{said}", console)


def _heading(text: str, console: Console) -> None:
    console.print()
    console.print(Text(printable(text), style="bold"))


def _line(text: str, console: Console, indent: int = 2) -> None:
    console.print(Padding(_plain(text), (0, 0, 0, indent), expand=False))


def _plain(text: str) -> Text:
    """Never read as markup: [ab] of a pattern is no style."""
    return Text(printable(text))
