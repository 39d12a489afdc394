"""What a model wrote, as the message that is trained on: reasoning, words and calls in their own
fields."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.read.messages import parse_message
from jaxsft.data.read.strict_json import clip, refuse_characters
from jaxsft.data.render.recovered import REASONING_ENDS
from jaxsft.generation.called import tool_calls, words_before

REASONING = "reasoning_content"
CUT = "cut at the limit"
EMPTY = "empty"
CONTROL = "has a control token"
NOT_ENDED_THINKING = "its reasoning has no end"
NO_MESSAGE = "can't be read back"
FILTERED = "stopped by the server"


@dataclasses.dataclass(frozen=True)
class Answer:
    """
    Attributes:
        message: of the assistant, as OpenAI writes it; {}: there is none.
        seed: of the chance that wrote it.
        tokens: that it took.
        why: it may not be kept, of few kinds; None: it may.
        detail: the same in full.
    """

    message: dict[str, Any]
    seed: int
    tokens: int
    why: str | None = None
    detail: str = ""

    def without_reasoning(self) -> "Answer":
        others = {key: said for key, said in self.message.items() if key != REASONING}
        return dataclasses.replace(self, message=others)

    @property
    def scored_text(self) -> str:
        """What scorers see: the words, and the calls as most families spell them."""
        calls = [one["function"] for one in self.message.get("tool_calls", ())]
        spelt = [f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls]
        return "\n".join([str(self.message.get("content", "")), *spelt])


def of_text(
    text: str,
    *,
    has_tools: bool,
    ended: bool,
    seed: int,
    tokens: int,
    controls: Callable[[str], Sequence[str]],
) -> Answer:
    """
    Args:
        text: that a model of our own wrote.
        controls: the control tokens that a text spells.
    """
    reasoning, words = _thought(text)
    calls = tool_calls(words) if has_tools else []
    message: dict[str, Any] = {
        "role": "assistant",
        "content": words_before(words) if calls else words,
    }
    if reasoning:
        message[REASONING] = reasoning
    if calls:
        message["tool_calls"] = calls
    if not ended:
        return Answer(message, seed, tokens, CUT, f"not ended after {tokens} tokens")
    if not reasoning and any(words.lstrip().startswith(_opening(end)) for end in REASONING_ENDS):
        return Answer(message, seed, tokens, NOT_ENDED_THINKING, clip(words))
    if spelt := [*controls(message["content"]), *controls(reasoning)]:
        return Answer(message, seed, tokens, CONTROL, f"has {spelt[0]}")
    return checked(message, seed, tokens)


def checked(message: dict[str, Any], seed: int, tokens: int) -> Answer:
    """The answer, refused where no row could have it."""
    try:
        refuse_characters(message)
        parsed = parse_message(message, "the answer")
    except RowError as error:
        return Answer(message, seed, tokens, NO_MESSAGE, str(error))
    if not parsed.content.strip() and not parsed.tool_calls:
        return Answer(plain(parsed), seed, tokens, EMPTY, "has no words")
    return Answer(plain(parsed), seed, tokens)


def plain(message: Message) -> dict[str, Any]:
    """The message as a row has it, without its weights."""
    said: dict[str, Any] = {"role": message.role, "content": str(message.content)}
    others = {REASONING: message.reasoning, "name": message.name}
    said |= {key: value for key, value in others.items() if value is not None}
    if message.tool_calls:
        said["tool_calls"] = list(message.tool_calls)
    return said | message.fields


def _thought(text: str) -> tuple[str, str]:
    """Reasoning and words; a prompt may have begun the reasoning.

    <think>hm</think>Hi     hm   Hi
    hm</think>Hi            hm   Hi
    """
    for end in REASONING_ENDS:
        before, found, after = text.partition(end)
        opening = _opening(end)
        begun = before.lstrip().removeprefix(opening)
        if found and opening not in begun:
            return begun.strip(), after.strip()
    return "", text.strip()


def _opening(end: str) -> str:
    return end.replace("/", "", 1)
