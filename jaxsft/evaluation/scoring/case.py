"""An answer that is to be scored, and what a scorer makes of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Score = bool | float


@dataclasses.dataclass(frozen=True)
class Case:
    answer: str
    reference: str
    # What a function of the user is given: messages, tools, reference, source, row.
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class NotScored(Exception):
    """This answer has no score: says why. It is counted; the run goes on."""


class ScorerIsAway(NotScored):
    """So may it be with the next answer too, and each costs time."""


ScoreOne = Callable[[Case], Score]  # raises NotScored
