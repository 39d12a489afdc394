"""What became of every row and every token."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

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


@dataclasses.dataclass(frozen=True)
class Account:
    """What became of every row and every token of a source, or of several."""

    rows_in: int = 0
    rows_out: int = 0
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


COUNTS = tuple(field.name for field in dataclasses.fields(Account) if field.type is int)


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
        self.counts["split_conversations"] += any(example.is_split for example in outcome.kept)
        for example in outcome.kept:
            self._add_example(example)
        for drop in outcome.dropped:
            self.dropped_examples[drop.kind] += 1
            self.dropped_tokens[drop.kind] += drop.num_tokens
            self.tokens["rendered"] += drop.num_tokens
            self.tokens["dropped"] += drop.num_tokens

    def _add_example(self, example: Example) -> None:
        supervised = int(np.count_nonzero(example.weights))
        self.counts["examples"] += 1
        self.counts["supervised_turns"] += len(example.turns)
        self.counts["boundary_tokens"] += example.boundary_tokens
        self.counts["control_text"] += example.control_text
        self.counts["text_controls"] += example.text_controls
        self.counts["trained_headers"] += bool(example.header)
        self.counts["near_turns"] += example.near_turns
        self.counts["truncated_examples"] += example.truncated_tokens > 0
        self.counts["truncated_turns"] += example.truncated_turns
        self.tokens["rendered"] += len(example.ids) + example.truncated_tokens
        self.tokens["supervised"] += supervised
        self.tokens["context"] += len(example.ids) - supervised
        self.tokens["truncated"] += example.truncated_tokens

    def merge(self, other: "Tally") -> None:
        for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True):
            mine.update(theirs)

    def account(self) -> Account:
        """The counts; rows and tokens are conserved."""
        kinds = [field.name for field in dataclasses.fields(TokenCounts)]
        tokens = {kind: self.tokens[kind] for kind in kinds}
        assert self.counts["rows_in"] == self.counts["rows_out"] + self.dropped.total()
        assert tokens["rendered"] == sum(tokens[kind] for kind in kinds[1:])
        return Account(
            **{name: self.counts[name] for name in COUNTS},
            dropped=dict(sorted(self.dropped.items())),
            dropped_examples=dict(sorted(self.dropped_examples.items())),
            dropped_tokens=dict(sorted(self.dropped_tokens.items())),
            unread_columns=dict(sorted(self.unread.items())),
            tokens=TokenCounts(**tokens),
        )
