"""The model's answer to a held-out prompt: a line of samples.jsonl."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sample:
    """Written and read by files/records.py; what an older line lacks has its default."""

    step: int = 0
    phase: str = "after"  # of training, and how it was asked: a key of report.page.answers.PHASES
    source: str | None = None
    row: int | None = None  # in the source's file
    prompt: str = ""  # the last message of it
    answer: str = ""
    reference: str = ""
    ended: bool | None = None  # by itself, not by the limit on tokens
    match: bool | None = None  # None: not compared
