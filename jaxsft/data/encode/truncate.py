"""A conversation that is too long without its oldest turns."""

import bisect
import dataclasses
import functools
from collections.abc import Callable, Sequence

from jaxsft.config import Data
from jaxsft.data.conversation import Conversation, Message
from jaxsft.data.encode.account import Drop
from jaxsft.data.encode.tokenize import ChatTokenizer, Example


def truncate(
    tokenizer: ChatTokenizer,
    conversation: Conversation,
    example: Example,
    data: Data,
    vocab_size: int | None,
) -> Example | Drop:
    """The overlong example of the conversation with as few turns left out as will do.

    messages  S U A U A T A U A     system messages at the front stay
    cuts            3       7       everything between them and a user message may go
    kept      S             U A     the last supervised turn stays whole, from its question on

    What follows that turn, such as a user's last word, goes if nothing fits with it.

    What is left is a conversation of its own, rendered as such. Where the template rewrites
    history the example is one turn with what led to it, and its conversation ends there; so the
    tokens left out are those of this example's own rendering.

    Returns:
        The shorter example, or a Drop where even the last turn alone is too long.
    """
    num_tokens, limit = len(example.ids), f"sequence_length={data.sequence_length}"
    if not example.turns:
        return Drop("no supervised token", "no supervised token", num_tokens)
    train_on, last = data.train_on, example.turns[-1]
    if example.is_split:
        train_on = "last_turn"
        conversation = dataclasses.replace(conversation, messages=conversation.messages[: last + 1])

    @functools.cache
    def fitting(cut: int) -> Example | None:
        shorter = dataclasses.replace(conversation, messages=_from(conversation.messages, cut))
        found = tokenizer.encode(shorter, train_on, vocab_size, data.train_parts)
        if not example.is_split:  # a turn that no other can share a text with has its own example
            found = [other for other in found if not other.is_split]
        fits = len(found) == 1 and len(found[0].ids) <= data.sequence_length
        return found[0] if fits else None

    cuts = _cuts(conversation.messages, last)
    cut, kept = _first_fitting(cuts, fitting)
    if kept is None and len(conversation.messages) > last + 1:
        messages = conversation.messages[: last + 1]
        conversation = dataclasses.replace(conversation, messages=messages)
        fitting.cache_clear()
        cut, kept = _first_fitting(cuts, fitting)
    if kept is None:
        reason = f"overlong: the last turn alone has more than {limit} tokens"
        what = f"messages[{cut}] to messages[{last}]"
        if front := _front(conversation.messages):
            what += f" and {front} system message{'s' * (front > 1)} before them"
        return Drop(reason, f"{reason} ({what}); {num_tokens} with all turns", num_tokens)
    num_left_out = cut - _front(conversation.messages)
    return dataclasses.replace(
        kept,
        turns=tuple(turn + num_left_out for turn in kept.turns),
        is_split=example.is_split,
        truncated_tokens=num_tokens - len(kept.ids),
        truncated_turns=len(example.turns) - len(kept.turns),
    )


def _first_fitting(
    cuts: Sequence[int], fitting: Callable[[int], Example | None]
) -> tuple[int, Example | None]:
    """The first cut from which on the conversation fits, and what it gives; else the last cut.

    Fewer turns never give more tokens; and whatever is returned was seen to fit.
    """
    first = bisect.bisect_left(cuts, True, key=lambda cut: fitting(cut) is not None)
    return (cuts[first], fitting(cuts[first])) if first < len(cuts) else (cuts[-1], None)


def _from(messages: tuple[Message, ...], cut: int) -> tuple[Message, ...]:
    return messages[: _front(messages)] + messages[cut:]


def _front(messages: Sequence[Message]) -> int:
    """How many system messages stand at the front."""
    return next(i for i, message in enumerate(messages) if message.role != "system")


def _cuts(messages: Sequence[Message], last: int) -> list[int]:
    """Where the rest may begin: where it does, and at the user messages, up to the one that `last`
    answers, before which messages can go."""
    front = _front(messages)
    later = [
        i
        for i in range(front + 1, last)
        if messages[i].role == "user" and messages[i - 1].role != "user"
    ]
    return [front, *later]
