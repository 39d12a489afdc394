"""What is said of a set of rows and of what two sets have in common, in figures.

A share is of the rows where no other word stands beside it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxsft.files import records


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number of each row: its sum and how far apart the rows are."""

    sum: int = 0
    min: int = 0
    median: int = 0
    mean: float = 0
    p90: int = 0
    p99: int = 0
    max: int = 0


@dataclasses.dataclass(frozen=True)
class Bin:
    """Rows whose number is at least `start` and less than `below`."""

    start: int = records.keyed("from", 0)
    below: int = 0
    rows: int = 0


@dataclasses.dataclass(frozen=True)
class BinnedSpread(Spread):
    """The same with the rows counted by their number, in bins."""

    histogram: Sequence[Bin] = ()


@dataclasses.dataclass(frozen=True)
class SupervisedSpread(Spread):
    """The same of supervised tokens."""

    share: float = 0.0  # of the tokens


@dataclasses.dataclass(frozen=True)
class RowPair:
    """An earlier row and one that is like it, each as file:row."""

    first: str = ""
    again: str = ""
    similarity: float | None = records.where_known()


@dataclasses.dataclass(frozen=True)
class ExactDuplicates:
    """Rows whose dialogue an earlier row has; shares are of all rows, 0 to 1."""

    rows: int = 0
    share: float = 0.0
    examples: Sequence[RowPair] = ()


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """Rows that are like another one, by an estimate of their texts' similarity, 0 to 1."""

    rows: int = 0
    later_rows: int = 0  # those that would go if one of each were kept
    share: float = 0.0  # of the later rows
    similarity_from: float = 0.0
    examples: Sequence[RowPair] = ()


@dataclasses.dataclass(frozen=True)
class RepeatedPrompts:
    rows: int = 0
    share: float = 0.0


@dataclasses.dataclass(frozen=True)
class RepeatedAnswer:
    """An answer that several rows give, and the first of them."""

    text: str = ""
    where: str = ""
    times: int = 0
    share: float = 0.0  # of the sampled answers


@dataclasses.dataclass(frozen=True)
class RepeatedAnswers:
    answers: int = 0
    sampled: int = 0
    examples: Sequence[RepeatedAnswer] = ()


@dataclasses.dataclass(frozen=True)
class HintedRow:
    """A row (file:row) with a hint, and an excerpt that shows it."""

    where: str = ""
    text: str = ""


@dataclasses.dataclass(frozen=True)
class HintedRows:
    """The rows with one kind of hint, some of them shown."""

    rows: int = 0
    share: float = 0.0
    examples: Sequence[HintedRow] = ()


@dataclasses.dataclass(frozen=True)
class Quality:
    """What is measured of the rows that give an example."""

    conversations: int = 0
    turns: BinnedSpread = dataclasses.field(default_factory=BinnedSpread)
    tokens: BinnedSpread = dataclasses.field(default_factory=BinnedSpread)
    supervised: SupervisedSpread = dataclasses.field(default_factory=SupervisedSpread)
    exact_duplicates: ExactDuplicates = dataclasses.field(default_factory=ExactDuplicates)
    near_duplicates: NearDuplicates = dataclasses.field(default_factory=NearDuplicates)
    repeated_prompts: RepeatedPrompts = dataclasses.field(default_factory=RepeatedPrompts)
    repeated_answers: RepeatedAnswers = dataclasses.field(default_factory=RepeatedAnswers)
    hints: Mapping[str, HintedRows] = dataclasses.field(default_factory=dict)  # by kind


@dataclasses.dataclass(frozen=True)
class SharedRow:
    """A row of an evaluation set, and the row of the training data that it is like."""

    held_out: str = records.keyed("eval", "")
    train: str = ""
    similarity: float | None = records.where_known()


@dataclasses.dataclass(frozen=True)
class SharedRows:
    rows: int = 0
    share: float = 0.0
    examples: Sequence[SharedRow] = ()


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Rows of an evaluation set that training shows; each counts under the first that holds."""

    rows: int = 0  # of the set
    exact: SharedRows = dataclasses.field(default_factory=SharedRows)
    same_prompt: SharedRows = dataclasses.field(default_factory=SharedRows)  # with another answer
    near: SharedRows = dataclasses.field(default_factory=SharedRows)
