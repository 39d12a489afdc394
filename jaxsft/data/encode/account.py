"""What became of every row and every token."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsft.data.conversation import BadRow
from jaxsft.data.encode.tokenize import Example
from jaxsft.data.read.strict_json import clip

MAX_UNREAD = 100  # names of columns that are counted one by one: rows may have names of their own
OTHERS = "other columns"


@dataclasses.dataclass(frozen=True)
class TokenCounts:
    """What became of the tokens; all but the first add up to it."""

    rendered: int = 0
    supervised: int = 0
    context: int = 0
    truncated: int = 0
    dropped: int = 0
    held_out: int = 0  # of the rows that data.holdout keeps out of training


@dataclasses.dataclass(frozen=True)
class Account:
    """What became of every row and every token of a source, or of several."""

    rows_in: int = 0
    rows_out: int = 0
    held_out: int = 0  # rows that data.holdout keeps out of training
    examples: int = 0
    supervised_turns: int = 0
    split_conversations: int = 0
    boundary_tokens: int = 0  # straddle a border of what is trained
    control_text: int = 0  # trained words that spell a control token and stay text
    text_controls: int = 0  # control tokens that rows of plain text spell, trained as such
    trained_headers: int = 0  # examples without a prompt: they train what begins an answer
    near_turns: int = 0  # compared with their prompts near by only: the template asks for all
    truncated_examples: int = 0
    truncated_turns: int = 0  # supervised turns among what truncation left out
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)  # rows, by reason
    dropped_examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dropped_tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unread_columns: Mapping[str, int] = dataclasses.field(default_factory=dict)  # rows, by name
    tokens: TokenCounts = dataclasses.field(default_factory=TokenCounts)


COUNTS = tuple(
    field.name
    for field in dataclasses.fields(Account)
    if field.type is int and field.name != "held_out"  # which no row says of itself
)
# What is counted of each row that gives an example: by these a part of the rows has its account.
_OF_ROWS = tuple(name for name in COUNTS if name not in ("rows_in", "rows_out"))
_TOKENS_OF_ROWS = ("supervised", "context", "truncated")
ROW_COUNTS = (*_OF_ROWS, *_TOKENS_OF_ROWS)


@dataclasses.dataclass(frozen=True)
class Drop:
    """An example that is not kept: the reason counted, the full sentence and its tokens."""

    kind: str
    detail: str
    num_tokens: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one row: examples kept and dropped, or the row itself is bad."""

    file: str
    row: int
    kept: tuple[Example, ...] = ()
    dropped: tuple[Drop, ...] = ()
    bad: BadRow | None = None
    unread: tuple[str, ...] = ()  # columns that hold something but decide nothing

    @property
    def reason(self) -> str | None:
        """Why the row gives no example; None if it gives one."""
        if self.kept:
            return None
        return self.bad.kind if self.bad else self.dropped[0].kind


def row_counts(kept: Sequence[Example]) -> list[int]:
    """The counts of one row by its examples, in the order of ROW_COUNTS."""
    counts = dict.fromkeys(ROW_COUNTS, 0)
    counts["split_conversations"] = int(any(example.is_split for example in kept))
    for example in kept:
        supervised = int(np.count_nonzero(example.weights))
        counts["examples"] += 1
        counts["supervised_turns"] += len(example.turns)
        counts["boundary_tokens"] += example.boundary_tokens
        counts["control_text"] += example.control_text
        counts["text_controls"] += example.text_controls
        counts["trained_headers"] += bool(example.header)
        counts["near_turns"] += example.near_turns
        counts["truncated_examples"] += example.truncated_tokens > 0
        counts["truncated_turns"] += example.truncated_turns
        counts["supervised"] += supervised
        counts["context"] += len(example.ids) - supervised
        counts["truncated"] += example.truncated_tokens
    return list(counts.values())


class Tally:
    """Counts of rows, examples and tokens of one source."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.dropped_examples: Counter[str] = Counter()
        self.dropped_tokens: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """Counts one more row."""
        self.counts["rows_in"] += 1
        if outcome.reason is None:
            self.counts["rows_out"] += 1
        else:
            self.dropped[outcome.reason] += 1
        for name in outcome.unread:
            is_new = name not in self.unread and len(self.unread) >= MAX_UNREAD
            self.unread[OTHERS if is_new else clip(name)[1:-1]] += 1
        for name, count in zip(ROW_COUNTS, row_counts(outcome.kept), strict=True):
            (self.tokens if name in _TOKENS_OF_ROWS else self.counts)[name] += count
            self.tokens["rendered"] += count if name in _TOKENS_OF_ROWS else 0
        for drop in outcome.dropped:
            self.dropped_examples[drop.kind] += 1
            self.dropped_tokens[drop.kind] += drop.num_tokens
            self.tokens["rendered"] += drop.num_tokens
            self.tokens["dropped"] += drop.num_tokens

    def merge(self, other: "Tally") -> None:
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            mine.update(theirs)

    def account(self) -> Account:
        """The counts; rows and tokens are conserved."""
        kinds = [field.name for field in dataclasses.fields(TokenCounts)]
        tokens = {kind: self.tokens[kind] for kind in kinds}
        account = Account(
            **{name: self.counts[name] for name in COUNTS},
            dropped=dict(sorted(self.dropped.items())),
            dropped_examples=dict(sorted(self.dropped_examples.items())),
            dropped_tokens=dict(sorted(self.dropped_tokens.items())),
            unread_columns=dict(sorted(self.unread.items())),
            tokens=TokenCounts(**tokens),
        )
        _check_sums(account)
        return account


@dataclasses.dataclass(frozen=True)
class SomeRows:
    """Rows that give examples, counted."""

    rows: int
    counts: Mapping[str, int]  # by the names of ROW_COUNTS

    @staticmethod
    def of(counts_RC: np.ndarray) -> "SomeRows":
        """Of the `row_counts` of these rows."""
        sums = counts_RC.sum(axis=0, dtype=np.int64).tolist()
        return SomeRows(len(counts_RC), dict(zip(ROW_COUNTS, sums, strict=True)))

    @property
    def tokens(self) -> int:
        return sum(self.counts[name] for name in _TOKENS_OF_ROWS)


def account_of(part: SomeRows) -> Account:
    """The account of a set that has these rows and no others."""
    tokens = {name: part.counts[name] for name in _TOKENS_OF_ROWS}
    counts: dict[str, Any] = {name: part.counts[name] for name in _OF_ROWS}
    return Account(
        rows_in=part.rows,
        rows_out=part.rows,
        tokens=TokenCounts(rendered=part.tokens, **tokens),
        **counts,
    )


def account_without(whole: Account, held_out: SomeRows, dropped: Mapping[str, SomeRows]) -> Account:
    """The account of a set that gives some of its rows to evaluation and drops others.

    Args:
        dropped: by the reason; that rows held out aren't among.
    """
    gone = [held_out, *dropped.values()]
    of_rows = {n: getattr(whole, n) - sum(p.counts[n] for p in gone) for n in _OF_ROWS}
    kinds = {n: getattr(whole.tokens, n) - sum(p.counts[n] for p in gone) for n in _TOKENS_OF_ROWS}
    lost = {reason: part for reason, part in dropped.items() if part.rows}
    account = dataclasses.replace(
        whole,
        **of_rows,
        rows_out=whole.rows_out - sum(part.rows for part in gone),
        held_out=held_out.rows,
        dropped={**whole.dropped, **{reason: part.rows for reason, part in lost.items()}},
        dropped_examples={
            **whole.dropped_examples,
            **{reason: part.counts["examples"] for reason, part in lost.items()},
        },
        dropped_tokens={
            **whole.dropped_tokens,
            **{reason: part.tokens for reason, part in lost.items()},
        },
        tokens=TokenCounts(
            rendered=whole.tokens.rendered,
            **kinds,
            dropped=whole.tokens.dropped + sum(part.tokens for part in lost.values()),
            held_out=held_out.tokens,
        ),
    )
    _check_sums(account)
    return account


def _check_sums(account: Account) -> None:
    """Rows and tokens are conserved."""
    rendered, *kinds = vars(account.tokens).values()
    dropped = sum(account.dropped.values())
    assert account.rows_in == account.rows_out + account.held_out + dropped
    assert rendered == sum(kinds)
