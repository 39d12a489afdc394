"""Held-out questions with their reference answers, and how an answer compares with one."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsft.config import Source
from jaxsft.data.cache.prepare import source_names
from jaxsft.data.conversation import Conversation, Message
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


def held_out_prompts(sources: Sequence[Source], count: int) -> list[Prompt]:
    """The first `count` conversations of the first eval source that has conversations.

    Raises:
        ConfigError: no eval source has conversations, and some are asked for.
    """
    if not count:
        return []
    for name, source in zip(source_names(sources), sources, strict=True):
        rows = [row for row in read_source(source) if isinstance(row, Conversation)]
        prompts = [_prompt(name, row) for row in rows if row.messages[-1].role == "assistant"]
        if prompts:
            return prompts[:count]
    raise ConfigError(
        f"config.eval.prompts={count}: none of config.data.eval ends with an assistant's answer"
    )


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
