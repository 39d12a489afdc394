"""Prompts to rows: asked, judged, written, counted."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxsft import __version__
from jaxsft.answering import keeping, written
from jaxsft.answering.keeping import Rule, Verdict
from jaxsft.answering.kept_rows import BESIDE, PROVENANCE, KeptRows, Totals
from jaxsft.answering.questions import HeldOut, Question, Survey, questions, survey
from jaxsft.answering.written import Answer
from jaxsft.config import Source
from jaxsft.errors import ConfigError
from jaxsft.terminal import eta
from jaxsft.terminal.console import Console

_LINE_SECONDS = 5.0  # between two lines of progress
_SHOWN = 300  # characters of an answer that is left out


class Answerer(Protocol):
    """Whoever answers: questions with their answers, some at a time, in order."""

    def answered(
        self, questions: Iterable[Question]
    ) -> Iterator[list[tuple[Question, list[Answer]]]]: ...


@dataclasses.dataclass(frozen=True)
class Job:
    """
    Attributes:
        settings: that decide what is written.
        provenance: of each row: who answers, and how.
        limit: prompts that are asked; None: all.
    """

    prompts: Source
    held_out: HeldOut
    rule: Rule
    needs_reference: bool
    output: Path
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    limit: int | None = None


def surveyed(job: Job, console: Console) -> Survey:
    """The prompts, read before a model is opened.

    Raises:
        DataError: some are none.
        ConfigError: there is none to ask.
    """
    found = survey(job.prompts, job.held_out, job.needs_reference)
    for line in found.lines:
        console.say("prompts", line)
    if not found.questions:
        why = ", ".join(f"{count:,} {kind}" for kind, count in found.reasons.items())
        raise ConfigError(f"--prompts={job.prompts.path}: there is nothing to ask ({why})")
    return found


def answer(job: Job, known: Survey, kept: KeptRows, answerer: Answerer, console: Console) -> None:
    """Asks what is not done, and writes what is kept."""
    wanted = min(known.questions, job.limit or known.questions)
    left = (one for one in questions(job.prompts, known, job.limit) if one.key not in kept.done)
    progress = _Progress(kept.totals, wanted, console)
    began = time.monotonic()
    for block in answerer.answered(left):
        judged = keeping.verdicts(job.rule, block)
        seconds = (time.monotonic() - began) / len(block)
        pairs = list(zip([question for question, _ in block], judged, strict=True))
        rows = [row for asked, found in pairs for row in _rows(job, kept.run, asked, found)]
        kept.add(rows, [_line(asked, found, seconds) for asked, found in pairs])
        began = time.monotonic()
        progress.say()
    for line in summary(kept.totals, job.output):
        console.say(*line)


def _rows(
    job: Job, run: str, question: Question, verdicts: Sequence[Verdict]
) -> Iterator[dict[str, Any]]:
    prompt = question.prompt
    before = [
        written.plain(one) | ({"weight": 0} if one.role == "assistant" else {})
        for one in prompt.messages
    ]
    for sample, verdict in enumerate(verdicts):
        if not verdict.kept:
            continue
        row: dict[str, Any] = {"messages": [*before, verdict.answer.message]}
        row |= {"tools": list(prompt.tools)} if prompt.tools else {}
        if prompt.template_options:
            row["chat_template_kwargs"] = dict(prompt.template_options)
        row[PROVENANCE] = {
            "prompt": question.key,
            "where": question.where,
            "sample": sample,
            "of": len(verdicts),
            "seed": verdict.answer.seed,
            "tokens": verdict.answer.tokens,
            "score": verdict.score,
            **job.provenance,
            "run": run,
            "jaxsft": __version__,
        }
        yield row


def _line(question: Question, verdicts: Sequence[Verdict], seconds: float) -> dict[str, Any]:
    return {
        "prompt": question.key,
        "where": question.where,
        "answers": sum(bool(one.answer.message) for one in verdicts),
        "kept": [index for index, one in enumerate(verdicts) if one.kept],
        "left": [
            {
                "sample": index,
                "why": one.why,
                "detail": one.detail[:_SHOWN],
                "answer": one.answer.scored_text[:_SHOWN],
            }
            for index, one in enumerate(verdicts)
            if not one.kept
        ],
        "tokens": sum(one.answer.tokens for one in verdicts),
        "seconds": round(seconds, 3),
    }


class _Progress:
    """Says every few seconds how far it is."""

    def __init__(self, totals: Totals, wanted: int, console: Console):
        self._totals, self._wanted, self._console = totals, wanted, console
        self._before = dataclasses.replace(totals)
        self._began = self._last = time.monotonic()
        if totals.prompts:
            console.say("resume", f"{totals.prompts:,} of {wanted:,} prompts are done")

    def say(self) -> None:
        now, totals = time.monotonic(), self._totals
        if now - self._last < _LINE_SECONDS or totals.prompts >= self._wanted:
            return
        self._last, seconds = now, now - self._began
        done = totals.prompts - self._before.prompts
        rate = (totals.tokens - self._before.tokens) / seconds
        left = eta.said((self._wanted - totals.prompts) * seconds / max(done, 1))
        self._console.say(
            "answer",
            f"{totals.prompts:,}/{self._wanted:,} prompts  {totals.kept:,} of {totals.answers:,}"
            f" answers kept  {rate:,.0f} tokens/s  {left} left",
        )


def summary(totals: Totals, output: Path) -> list[tuple[str, str]]:
    """What all starts together came to, by topic."""
    counts = sorted(totals.left.items(), key=lambda one: -one[1])
    lines = [
        (
            "done",
            f"{totals.prompts:,} prompts, {totals.answers:,} answers, {totals.kept:,} kept;"
            f" {totals.tokens:,} tokens; {eta.said(totals.seconds)}",
        )
    ]
    if counts:
        said = ", ".join(f"{count:,} {why}" for why, count in counts)
        lines.append(("left out", f"{said} ({output.name}{BESIDE} has each)"))
    if totals.without_row:
        lines.append(("left out", f"{totals.without_row:,} prompts gave no row"))
    lines.append(("rows", str(output)))
    return lines
