"""Held-out questions with their reference answers, and the ways to ask them."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsft.config import Data, Source
from jaxsft.data.cache.divided import HELD_OUT, HOLDOUT, RowKey, rows_apart
from jaxsft.data.cache.prepare import source_names
from jaxsft.data.cache.store import Cache
from jaxsft.data.conversation import Conversation, Message, Record
from jaxsft.data.read import messages
from jaxsft.data.read.sources import read_source
from jaxsft.errors import ConfigError

_FIRST = 10_000  # examples of the training data that shots are drawn from: no more is read


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A held-out conversation up to its last answer, and that answer."""

    source: str
    row: int
    messages: tuple[Message, ...]
    tools: Any
    reference: str
    template_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    reference_calls: tuple[dict[str, Any], ...] = ()  # as Message.tool_calls
    scored_by: tuple[str, ...] | None = None  # names of scorers; None: those for its set
    file: str = ""  # that the row is of


def held_out_prompts(data: Data, count: int, train: Cache | None = None) -> list[Prompt]:
    """The first `count` conversations of each set of evaluation that has some, set after set.

    Args:
        train: what data.holdout has left of the training data: the first set is what it took.

    Raises:
        ConfigError: no set has conversations, and some are asked for.
    """
    if not count:
        return []
    names = source_names(data.eval)
    sets = [(n, read_source(source)) for n, source in zip(names, data.eval, strict=True)]
    if train is not None and data.holdout is not None:
        sets.insert(0, (HOLDOUT, _held_out(data.train, rows_apart(train))))
    prompts = [prompt for name, rows in sets for prompt in _first(name, rows, count)]
    if not prompts:
        raise ConfigError(
            f"config.eval.prompts={count}: none of config.data.eval ends with an assistant's answer"
        )
    return prompts


def held_out_of_train(data: Data, train: Cache) -> Iterator[Conversation]:
    """What data.holdout took of the training data, up to where the last answer begins."""
    for row in _held_out(data.train, rows_apart(train)):
        if isinstance(row, Conversation) and len(row.messages) > 1:
            yield dataclasses.replace(row, messages=row.messages[:-1])


def _held_out(sources: Sequence[Source], apart: Mapping[RowKey, str]) -> Iterator[Record]:
    for index, source in enumerate(sources):
        for row in read_source(source):
            if apart.get((index, row.file, row.row)) == HELD_OUT:
                yield row


def _first(name: str, rows: Iterable[Record], count: int) -> list[Prompt]:
    found: list[Prompt] = []
    for row in rows:
        if isinstance(row, Conversation) and row.messages[-1].role == "assistant":
            found.append(_prompt(name, row))
            if len(found) == count:
                break
    return found


def _prompt(name: str, row: Conversation) -> Prompt:
    last = row.messages[-1]
    return Prompt(
        source=name,
        row=row.row,
        messages=row.messages[:-1],
        tools=row.tools,
        reference=str(last.content or ""),
        template_options=row.template_options,
        reference_calls=last.tool_calls,
        file=row.file,
    )


def with_instruction(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with `instruction` as its only system message."""
    others = tuple(message for message in prompt.messages if message.role != "system")
    system = messages.parse_message({"role": "system", "content": instruction}, "instruction")
    return dataclasses.replace(prompt, messages=(system, *others))


def with_shots(prompt: Prompt, shots: Sequence[Message]) -> Prompt:
    """The prompt with these turns between its system messages and its first other one."""
    first = 0
    while first < len(prompt.messages) and prompt.messages[first].role == "system":
        first += 1
    turns = prompt.messages
    return dataclasses.replace(prompt, messages=(*turns[:first], *shots, *turns[first:]))


def shots_of(
    data: Data, train: Cache, count: int, seed: int, prompts: Sequence[Prompt]
) -> list[Message]:
    """The turns of `count` training conversations, none of which asks what a prompt asks.

    Drawn, seeded, from the first examples of the training data: of those that data.holdout took
    there are none among them.

    Raises:
        ConfigError: there are not so many.
    """
    order = np.random.default_rng(seed).permutation(min(len(train), _FIRST)).tolist()
    wanted = {train.source_of(example) for example in order}
    sources = np.unique(train.sources[: len(order)]).tolist()
    rows = _conversations([data.train[one] for one in sources], wanted)
    asked = {_question(prompt.messages) for prompt in prompts}
    turns: list[Message] = []
    taken = set()
    for row in (rows.get(train.source_of(example)) for example in order):
        if len(taken) == count:
            break
        if row is None or row.messages[-1].role != "assistant" or row.tools:
            continue
        question = _question(row.messages[:-1])
        if question not in asked and question not in taken:
            taken.add(question)
            turns += [message for message in row.messages if message.role != "system"]
    if len(taken) < count:
        raise ConfigError(
            f"config.eval.shots={count}: the first {len(order):,} training examples have"
            f" {len(taken)} conversations without tools that ask something else than each other and"
            " than the held-out prompts"
        )
    return turns


def _conversations(
    sources: Sequence[Source], wanted: set[tuple[str, int]]
) -> dict[tuple[str, int], Conversation]:
    """Those of the wanted files and rows; reads no further than to the last of them."""
    found: dict[tuple[str, int], Conversation] = {}
    left = set(wanted)
    for source in sources:
        for row in read_source(source):
            if (row.file, row.row) in left:
                left.remove((row.file, row.row))
                if isinstance(row, Conversation):
                    found[row.file, row.row] = row
            if not left:
                return found
    return found


def _question(turns: Sequence[Message]) -> str:
    """What a conversation asks, whatever its system message says."""
    return "\n".join(str(one.content).strip() for one in turns if one.role != "system")
