"""Which message a template refuses, so that the row is blamed where the row is at fault."""

import dataclasses
from collections.abc import Sequence

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.render.rendering import Rendering

_QUESTION = Message("user", "ok")
_BEGINS = "conversation begins with the assistant"


def refused(rendering: Rendering, error: RowError) -> RowError:
    """The error of a conversation that the template refuses, with the message to look at."""
    if not error.kind.startswith("template refused"):
        return error
    messages = rendering.messages
    front = _front(messages)
    if messages[front].role == "assistant":
        spoken = [i for i in range(front, len(messages)) if messages[i].role != "assistant"]
        rest = messages[spoken[0] :] if spoken else (_QUESTION, *messages[front:])
        if _takes(rendering, (*messages[:front], *rest)):
            return RowError(
                _BEGINS,
                f"messages[{front}] is the assistant's, and nothing stands before it that it could "
                "answer: put a user's message before it"
                f"{', or leave it out' if spoken else ''}; as it is, {error}",
            )
    low, high = 0, len(messages)
    while high - low > 1:  # the first `low` are taken, the first `high` are not
        middle = (low + high) // 2
        low, high = (middle, high) if _takes(rendering, messages[:middle]) else (low, middle)
    if not low and front and _takes(rendering, messages[front:]):
        return RowError(
            error.kind,
            f"{error}; it takes the conversation without messages[0] (role 'system'): put what "
            "that says at the beginning of the user's message",
        )
    if not low:  # not even the first alone, which may be for want of the others
        return error
    role = messages[low].role
    return RowError(error.kind, f"{error}; messages[{low}] (role {role!r}) is the first it refuses")


def without_prompt(rendering: Rendering, turn: int, error: RowError) -> RowError:
    """The error of a turn for which the template makes no generation prompt."""
    if turn > _front(rendering.messages):
        return RowError(
            error.kind, f"messages[{turn}]: what stands before it is no prompt: {error}"
        )
    return RowError(
        _BEGINS,
        f"messages[{turn}] is the assistant's, and nothing stands before it that it could answer, "
        'so no prompt leads to it: give it weight 0 ("train": false) to keep it as context, or put '
        f"a user's message before it; asked for the prompt, {error}",
    )


def _front(messages: Sequence[Message]) -> int:
    """How many system messages stand at the front."""
    return next((i for i, message in enumerate(messages) if message.role != "system"), 0)


def _takes(rendering: Rendering, messages: Sequence[Message]) -> bool:
    return dataclasses.replace(rendering, messages=messages).is_possible
