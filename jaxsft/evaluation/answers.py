"""Held-out questions with their reference answers, and how an answer compares with one."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
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
from jaxsft.rundir.sample import Sample


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A held-out conversation up to its last answer, and that answer."""

    source: str
    row: int
    messages: tuple[Message, ...]
    tools: Any
    reference: str
    template_options: dict[str, Any] = dataclasses.field(default_factory=dict)


def held_out_prompts(data: Data, count: int, train: Cache | None = None) -> list[Prompt]:
    """The first `count` conversations of the first set of evaluation that has conversations.

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
    for name, rows in sets:
        told = (row for row in rows if isinstance(row, Conversation))
        prompts = [_prompt(name, row) for row in told if row.messages[-1].role == "assistant"]
        if prompts:
            return prompts[:count]
    raise ConfigError(
        f"config.eval.prompts={count}: none of config.data.eval ends with an assistant's answer"
    )


def _held_out(sources: Sequence[Source], apart: Mapping[RowKey, str]) -> Iterator[Record]:
    for index, source in enumerate(sources):
        for row in read_source(source):
            if apart.get((index, row.file, row.row)) == HELD_OUT:
                yield row


def _prompt(name: str, row: Conversation) -> Prompt:
    reference = row.messages[-1].content or ""
    options = row.template_options
    return Prompt(name, row.row, row.messages[:-1], row.tools, str(reference), options)


def with_instruction(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with `instruction` as its only system message."""
    others = tuple(message for message in prompt.messages if message.role != "system")
    system = messages.parse_message({"role": "system", "content": instruction}, "instruction")
    return dataclasses.replace(prompt, messages=(system, *others))


def matches(answer: str, reference: str, how: str | None) -> bool | None:
    """Whether the answer is the reference's: as text, or as the JSON value that it spells."""
    if how is None:
        return None
    if how == "exact":
        return answer.strip() == reference.strip()
    try:
        return _same(json.loads(answer), json.loads(reference))
    except (ValueError, RecursionError):  # a number of 4,301 digits is no JSONDecodeError
        return False


def _same(left: Any, right: Any) -> bool:
    """Equal JSON values; Python's True == 1 and 1 == 1.0 are not equal in JSON's types."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def share(samples: Sequence[Sample]) -> float | None:
    """The share of samples that match, or None where nothing was compared."""
    results = [sample.match for sample in samples if sample.match is not None]
    return float(np.mean(results)) if results else None
