"""The prompts that a model is asked: read, and told from those that may not be.

N: prompts; K: places of a signature.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from jaxsft.config import Source
from jaxsft.data.conversation import BadRow, Conversation, LeftOut, Message
from jaxsft.data.quality import near_duplicates
from jaxsft.data.quality.row_statistics import message_bytes, words_of
from jaxsft.data.read import bad_rows
from jaxsft.data.read.prompts import PromptRow, read_prompts
from jaxsft.errors import DataError
from jaxsft.evaluation.answers import Prompt

TWICE = "the same as an earlier prompt"
HELD_OUT = "a prompt of the held-out data"
NEARLY_HELD_OUT = f"{near_duplicates.SIMILAR:.0%} or more like a prompt of the held-out data"
LEFT_OUT = "left out by the row itself"
NO_REFERENCE = "no answer to compare with"
_AT_ONCE = 1024  # prompts that are compared with the held-out ones
_BAD_ROWS = 20  # that are named
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Question:
    """
    Attributes:
        prompt: its source is the file's name.
        key: the same for the same messages, tools and options, but for white space.
    """

    prompt: Prompt
    key: str

    @property
    def where(self) -> str:
        return f"{self.prompt.source}:{self.prompt.row}"

    @property
    def has_reference(self) -> bool:
        return bool(self.prompt.reference.strip() or self.prompt.reference_calls)


class HeldOut:
    """Prompts that nothing may be trained on, whatever their system messages say."""

    def __init__(self, rows: Iterable[Conversation]):
        """
        Args:
            rows: each up to where its answer begins.
        """
        prints: dict[str, int] = {}
        words: list[str | np.ndarray] = []
        for row in rows:
            if prints.setdefault(_asked(row.messages), len(words)) == len(words):
                words.append(words_of(row))
        self._prints = prints.keys()
        self._signatures_NK = near_duplicates.signatures(words)

    def __len__(self) -> int:
        return len(self._prints)

    @property
    def digest(self) -> str:
        return hashlib.sha256("".join(sorted(self._prints)).encode()).hexdigest()[:16]

    def among(self, rows: Sequence[Conversation]) -> list[str | None]:
        """Why each of these is one of them; None: it is not."""
        if not self._prints:
            return [None] * len(rows)
        signatures = near_duplicates.signatures([words_of(row) for row in rows])
        near, _, _ = near_duplicates.similar_between(signatures, self._signatures_NK)
        alike = set(near.tolist())
        return [
            HELD_OUT
            if _asked(row.messages) in self._prints
            else (NEARLY_HELD_OUT if index in alike else None)
            for index, row in enumerate(rows)
        ]


@dataclasses.dataclass(frozen=True)
class Survey:
    """What stands in the files of prompts, before one of them is asked.

    Attributes:
        questions: that may be asked.
        refused: (file, row) of the others.
        lines: what to say of those, by reason with their rows.
        reasons: how many there are of each.
    """

    questions: int
    refused: Collection[tuple[str, int]]
    lines: Sequence[str]
    reasons: dict[str, int]


def survey(source: Source, held_out: HeldOut, needs_reference: bool) -> Survey:
    """
    Args:
        needs_reference: whether a prompt without an answer can't be scored.

    Raises:
        DataError: listing the rows that are none, or naming the file that can't be used.
    """
    bad: list[BadRow] = []
    refused: list[BadRow] = []
    seen: set[str] = set()
    count = 0
    for block in blocks(read_prompts(source), _AT_ONCE):
        bad += [one for one in block if isinstance(one, BadRow)]
        refused += [
            BadRow(one.file, one.row, LEFT_OUT, f"is not asked: {one.reason}")
            for one in block
            if isinstance(one, LeftOut)
        ]
        rows = [one for one in block if isinstance(one, PromptRow)]
        found = held_out.among([one.asked for one in rows])
        for row, why in zip(rows, found, strict=True):
            question = question_of(row)
            if why is None and needs_reference and not question.has_reference:
                why = NO_REFERENCE
            if question.key in seen:
                why = TWICE
            seen.add(question.key)
            count += why is None
            if why is not None:
                refused.append(
                    BadRow(row.asked.file, row.asked.row, why, f"is not asked: it is {why}")
                )
    if bad:
        raise DataError(_listed(bad))
    kinds = _counted(refused)
    lines = bad_rows.listed(bad_rows.first_of(refused, 10 * _BAD_ROWS), kinds)
    return Survey(count, {(one.file, one.row) for one in refused}, lines, kinds)


def _listed(bad: Sequence[BadRow]) -> str:
    lines = bad_rows.listed(bad_rows.first_of(bad, _BAD_ROWS), _counted(bad))
    return "\n".join([f"{len(bad):,} rows can't be asked:", *lines])


def _counted(rows: Iterable[BadRow]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.kind] = counts.get(row.kind, 0) + 1
    return counts


def questions(source: Source, found: Survey, limit: int | None) -> Iterator[Question]:
    """The first `limit` that may be asked; None: all of them."""
    count = 0
    for row in read_prompts(source):
        if count == limit:
            return
        if isinstance(row, PromptRow) and (row.asked.file, row.asked.row) not in found.refused:
            count += 1
            yield question_of(row)


def question_of(row: PromptRow) -> Question:
    asked, answer = row.asked, row.answer
    prompt = Prompt(
        source=asked.file,
        row=asked.row,
        messages=asked.messages,
        tools=None if asked.tools is None else list(asked.tools),
        reference="" if answer is None else str(answer.content),
        template_options=asked.template_options,
        reference_calls=() if answer is None else answer.tool_calls,
    )
    digest = hashlib.blake2b(digest_size=12)
    for message in asked.messages:
        digest.update(message_bytes(message))
    rest = [asked.tools, asked.template_options]
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return Question(prompt, digest.hexdigest())


def _asked(messages: Iterable[Message]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for message in messages:
        if message.role != "system":
            digest.update(message_bytes(message))
    return digest.hexdigest()


def blocks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """So many at a time; the last may be fewer."""
    block: list[_T] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def held_out_rows(
    sources: Iterable[Source], say: Callable[[str], object]
) -> Iterator[Conversation]:
    """The prompts of sets of evaluation; what is none in them is counted."""
    others = 0
    for source in sources:
        for row in read_prompts(source):
            if isinstance(row, PromptRow):
                yield row.asked
            else:
                others += 1
    if others:
        say(f"{others:,} rows of the held-out data are no prompts: they can't be told from yours")
