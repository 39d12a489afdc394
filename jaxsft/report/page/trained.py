"""What was trained: the account of rows and tokens, and examples as they were trained."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from jaxsft.data.cache.manifest import CacheReport
from jaxsft.data.quality.figures import BinnedSpread
from jaxsft.report.run_read import RunFiles
from jaxsft.report.summary import Summary, TrainedExample

TOKEN_KINDS = ("supervised", "context", "truncated", "dropped", "held_out")
_COLORS = {"supervised": 3, "context": 1, "truncated": 2, "dropped": 4, "held_out": 6}
_ROWS = 5  # shown of those that have something in common
MAX_EXAMPLE_TOKENS = 1500


@dataclasses.dataclass(frozen=True)
class ShownToken:
    text: str
    weight: str
    supervised: bool
    losses: str = ""  # before and after training


@dataclasses.dataclass(frozen=True)
class ShownExample:
    where: str
    tokens: list[ShownToken]
    more: int  # tokens that are not shown
    supervised: int  # of all
    mean: str = ""  # loss of those, before and after training


@dataclasses.dataclass(frozen=True)
class Bin:
    height: float  # percent of the highest
    text: str


@dataclasses.dataclass(frozen=True)
class Note:
    text: str
    rows: Sequence[str] = ()  # as file:row


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownAccount:
    """Where every row and token of a cache went; `balanced` says whether the sums agree."""

    name: str
    rows_in: int
    rows_out: int
    held_out: int
    dropped: Mapping[str, int]  # rows, by reason
    examples: int
    rows_balanced: bool
    rendered: int  # tokens
    kinds: Mapping[str, int]  # tokens
    tokens_balanced: bool
    shares: Mapping[str, float]  # percent of the tokens, by kind
    colors: Mapping[str, int]  # of the page, by kind
    lengths: Sequence[Bin]
    spread: str
    notes: Sequence[Note]


def examples(summary: Summary) -> list[ShownExample]:
    """The first training example, and others from all over the data."""
    first = TrainedExample(tokens=summary.example)
    several = list(summary.examples) or ([first] if summary.example else [])
    return [example(one) for one in several]


def example(one: TrainedExample) -> ShownExample:
    """The tokens as drawn: a line break is shown as a mark before it breaks the line."""
    count = len(one.tokens)
    befores, afters = ([*losses, *[None] * count][:count] for losses in (one.before, one.after))
    tokens = list(zip(one.tokens, befores, afters, strict=True))
    shown = [
        ShownToken(text.replace("\n", "⏎\n"), f"{weight:g}", weight > 0, _said([before, after]))
        for (text, weight), before, after in tokens[:MAX_EXAMPLE_TOKENS]
    ]
    supervised = [losses for (_, weight), *losses in tokens if weight > 0]
    known = [pair for pair in supervised if None not in pair]
    means = [sum(column) / len(known) for column in zip(*known, strict=True)]
    return ShownExample(one.where, shown, count - len(shown), len(supervised), _said(means))


def _said(losses: Sequence[float | None]) -> str:
    """`"2.41 before, 0.03 after"`, of those that are known."""
    named = zip(("before", "after"), losses, strict=False)
    return ", ".join(f"{loss:.2f} {name}" for name, loss in named if loss is not None)


def reports(run: RunFiles) -> Mapping[str, CacheReport]:
    """The report of each cache, by name: known from before the first step."""
    known = run.data_report
    found = {"train": known.train, **known.held_out} if known.train.rows_in else {}
    return run.summary.data or found


def account(name: str, report: CacheReport) -> ShownAccount:
    tokens = vars(report.tokens)
    rendered = report.tokens.rendered
    kinds = {k: tokens[k] for k in TOKEN_KINDS if tokens[k] or k != "held_out"}
    return ShownAccount(
        name=name,
        rows_in=report.rows_in,
        rows_out=report.rows_out,
        dropped=report.dropped,
        examples=report.examples,
        held_out=report.held_out,
        rows_balanced=report.rows_in
        == report.rows_out + report.held_out + sum(report.dropped.values()),
        rendered=rendered,
        kinds=kinds,
        tokens_balanced=rendered == sum(kinds.values()),
        shares={kind: 100 * count / rendered if rendered else 0 for kind, count in kinds.items()},
        colors=_COLORS,
        lengths=_bins(report.quality.tokens),
        spread=_spread(report.quality.tokens),
        notes=list(_notes(report)),
    )


def _bins(lengths: BinnedSpread) -> list[Bin]:
    most = max((one.rows for one in lengths.histogram), default=0)
    return [
        Bin(100 * one.rows / most, f"{one.start:,} to {one.below - 1:,} tokens: {one.rows:,} rows")
        for one in lengths.histogram
        if most
    ]


def _spread(lengths: BinnedSpread) -> str:
    return (
        f"median {lengths.median:,}, 90 % up to {lengths.p90:,}, 99 % up to {lengths.p99:,},"
        f" longest {lengths.max:,}."
    )


def _notes(report: CacheReport) -> Iterator[Note]:
    """What is odd in the rows, with some that show it."""
    quality = report.quality
    if quality.exact_duplicates.rows:
        pairs = [f"{one.again} is {one.first}" for one in quality.exact_duplicates.examples]
        yield Note(f"{quality.exact_duplicates.rows:,} exact duplicates", pairs[:_ROWS])
    if quality.near_duplicates.later_rows:
        pairs = [f"{one.again} is like {one.first}" for one in quality.near_duplicates.examples]
        yield Note(f"{quality.near_duplicates.later_rows:,} near duplicates", pairs[:_ROWS])
    for kind, hint in quality.hints.items():
        rows = [f"{one.where}: {one.text}" for one in hint.examples[:_ROWS]]
        yield Note(f"{hint.rows:,} rows: {kind}", rows)
    for cause in report.bad_rows_by_cause:
        yield Note(f"dropped: {cause}")
    if report.bad_rows and not report.bad_rows_by_cause:
        yield Note("dropped rows", report.bad_rows[:_ROWS])
    if report.truncated_examples:
        yield Note(f"{report.truncated_examples:,} examples truncated")
