"""Answers to held-out prompts as they changed over a run, failures first."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxsft.report import repeats
from jaxsft.report.evidence import does_not_end
from jaxsft.report.run_read import Answered, RunFiles

MAX_PROMPTS = 300
MAX_TEXT = 4000  # characters of one text
MAX_ALL = 1_500_000  # characters of all of them
_MAX_COMPARED = 2000  # characters: comparing takes the square of it
_ALIKE = 0.3  # of less likeness the differences are everything
_PIECES = re.compile(r"\w+|\s+|[^\w\s]")
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
# The order of the columns, and their heads.
PHASES = {
    "before": "before",
    "before_with_instruction": "before, instructed",
    "before_with_shots": "before, with examples",
    "after": "after",
}


@dataclasses.dataclass(frozen=True)
class Turn:
    role: str
    text: str
    calls: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Shown:
    """One answer."""

    head: str
    pieces: Sequence[tuple[str, str]]  # kind ("same", "extra", "missing") and text
    calls: Sequence[str]  # of tools, each as it is written in Python
    match: bool | None
    cut: bool  # by the limit
    repeats: bool
    more: int  # characters that are not shown


@dataclasses.dataclass(frozen=True)
class Card:
    """One prompt with its answers."""

    turns: Sequence[Turn]  # before the last, such as the system's
    prompt: str
    answers: Sequence[Shown]
    reference: str
    reference_calls: Sequence[str]
    flags: str  # what the filter looks for: "failed", "passed", "changed", "endless"


@dataclasses.dataclass(frozen=True)
class Cards:
    cards: Sequence[Card]
    left_out: int
    counts: Mapping[str, int]  # of all prompts, by flag


_Key = tuple[float, int, str]  # the place of a column, the step, the phase


def cards_of(run: RunFiles) -> Cards:
    """A card for each prompt: those that went wrong first, as many as a page should hold."""
    prompts: dict[tuple[str | None, int | None], dict[_Key, Answered]] = {}
    for one in run.answers:
        sample = one.sample
        known = list(PHASES)
        order = known.index(sample.phase) if sample.phase in PHASES else len(known) - 1.5
        step = 0 if sample.phase in PHASES else sample.step
        group = prompts.setdefault(one.prompt, {})
        group[order, step, sample.phase] = one
    ordered = sorted(prompts.values(), key=_urgency)
    counts: dict[str, int] = {}
    for answers in ordered:
        for flag in _flags(answers).split():
            counts[flag] = counts.get(flag, 0) + 1
    cards, room = [], MAX_ALL
    for answers in ordered[:MAX_PROMPTS]:
        card = _card(answers)
        room -= sum(len(text) for one in card.answers for _, text in one.pieces)
        room -= len(card.prompt) + len(card.reference) + sum(len(one.text) for one in card.turns)
        if room < 0:
            break
        cards.append(card)
    return Cards(cards, len(ordered) - len(cards), counts)


def _urgency(answers: Mapping[_Key, Answered]) -> int:
    flags = _flags(answers).split()
    if "endless" in flags:
        return 0
    return 1 if "failed" in flags else 3 if "passed" in flags else 2


def _flags(answers: Mapping[_Key, Answered]) -> str:
    passed, newest = answers[max(answers)].passed, answers[max(answers)].sample
    first = answers[min(answers)].sample
    flags = {
        "failed": passed is False,
        "passed": passed is True,
        "changed": newest is not first and newest.answer != first.answer,
        "endless": does_not_end(newest) or repeats.says_the_same_again(newest.answer),
    }
    return " ".join(name for name, true in flags.items() if true)


def _card(answers: Mapping[_Key, Answered]) -> Card:
    shown = [_shown(*key[1:], answers[key]) for key in sorted(answers)]
    # An answer that was told what to do has another system message.
    plain = [key for key in sorted(answers) if key[2] != "before_with_instruction"]
    one = answers[plain[0] if plain else min(answers)]
    sample = one.sample
    return Card(
        turns=list(_turns(one.line.get("messages"))),
        prompt=_cut(sample.prompt)[0],
        answers=shown,
        reference=_cut(sample.reference)[0],
        reference_calls=[_as_call(call) for call in one.line.get("reference_tool_calls") or ()],
        flags=_flags(answers),
    )


def _shown(step: int, phase: str, one: Answered) -> Shown:
    sample = one.sample
    text, more = _cut(sample.answer)
    called = one.line.get("tool_calls")
    calls = [_as_call(call) for call in called] if called else list(_calls_in(text))
    head = PHASES.get(phase) or f"{phase.replace('_', ' ')}, step {step:,}"
    return Shown(
        head=head,
        pieces=_compared(text, sample.reference),
        calls=calls,
        match=one.passed,
        cut=sample.ended is False,
        repeats=repeats.says_the_same_again(sample.answer),
        more=more,
    )


def _cut(text: str) -> tuple[str, int]:
    return text[:MAX_TEXT], max(len(text) - MAX_TEXT, 0)


def _compared(answer: str, reference: str) -> list[tuple[str, str]]:
    """The answer in pieces: what the reference has too, what it hasn't, and what is missing.

    `("a red hat", "a hat")` -> `[("same", "a "), ("extra", "red "), ("same", "hat")]`.
    """
    if not reference or answer == reference or max(len(answer), len(reference)) > _MAX_COMPARED:
        return [("same", answer)]
    ours, theirs = _PIECES.findall(answer), _PIECES.findall(reference)
    matcher = difflib.SequenceMatcher(None, theirs, ours, autojunk=False)
    if matcher.quick_ratio() < _ALIKE or matcher.ratio() < _ALIKE:
        return [("same", answer)]
    found = []
    for kind, start, stop, first, last in matcher.get_opcodes():
        if kind == "equal":
            found.append(("same", "".join(ours[first:last])))
            continue
        if stop > start:
            found.append(("missing", "".join(theirs[start:stop])))
        if last > first:
            found.append(("extra", "".join(ours[first:last])))
    return found


def _turns(messages: Any) -> Iterator[Turn]:
    """The messages before the last, where a line of samples.jsonl holds them."""
    if not isinstance(messages, list):
        return
    for message in messages[:-1]:
        if isinstance(message, dict):
            content = message.get("content") or ""
            text = content if isinstance(content, str) else json.dumps(content)
            calls = [_as_call(call) for call in message.get("tool_calls") or ()]
            yield Turn(str(message.get("role")), _cut(text)[0], calls)


def _calls_in(text: str) -> Iterator[str]:
    """Calls of tools that an answer spells as most templates do."""
    for found in _CALL.finditer(text):
        try:
            yield _as_call(json.loads(found.group(1)))
        except (ValueError, RecursionError):
            continue


def _as_call(call: Any) -> str:
    """`{"name": "f", "arguments": {"x": 1}}` -> `f(x=1)`."""
    call = call.get("function", call) if isinstance(call, dict) else {}
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = {"": arguments}
    given = arguments if isinstance(arguments, dict) else {}
    inside = ", ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
    return f"{call.get('name') if isinstance(call, dict) else '?'}({inside})"
