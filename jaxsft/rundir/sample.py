"""The model's answer to a held-out prompt: a line of samples.jsonl."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

# By which older lines have their one comparison.
MATCH = "match"


@dataclasses.dataclass(frozen=True)
class Sample:
    """Written and read by files/records.py; what an older line lacks has its default."""

    step: int = 0
    # Of training, and how it was asked: before, before_with_instruction, before_with_shots, during,
    # after.
    phase: str = "after"
    source: str | None = None
    row: int | None = None  # in the source's file
    prompt: str = ""  # the last message of it
    answer: str = ""
    reference: str = ""
    ended: bool | None = None  # by itself, not by the limit on tokens
    match: bool | None = None  # the score of this name; None: not compared
    # By scorer: true or false, or a number, of which more is better; None: it could give none.
    scores: Mapping[str, bool | float | None] = dataclasses.field(default_factory=dict)
    answer_tokens: int | None = None  # the end of the turn among them
    # What was asked, system prompt and earlier turns included: role, content, and where there are
    # some reasoning, tool_calls, name.
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    # Calls in the answer and in the reference, {"name", "arguments"} each.
    tool_calls: Sequence[Mapping[str, Any]] = ()
    reference_tool_calls: Sequence[Mapping[str, Any]] = ()


def from_older(sample: Sample) -> Sample:
    """The sample of a line from before there were several scores."""
    if sample.match is None or MATCH in sample.scores:
        return sample
    return dataclasses.replace(sample, scores={MATCH: sample.match, **sample.scores})
