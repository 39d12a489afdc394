"""Conversations of every shape, with which a chat template is tried."""

import dataclasses
from typing import Any

from jaxsft.data.conversation import Message

_CALL = {"id": "call00001", "type": "function"}
_LOOK = {**_CALL, "function": {"name": "look", "arguments": {"at": "the sea", "times": 2}}}
_SAY = {**_CALL, "id": "call00002", "function": {"name": "say", "arguments": {"text": "ah\n"}}}
_PARAMETERS = {
    "type": "object",
    "properties": {"at": {"type": "string", "description": "where"}},
    "required": ["at"],
}
TOOLS = tuple(
    {
        "type": "function",
        "function": {"name": name, "description": f"to {name}", "parameters": _PARAMETERS},
    }
    for name in ("look", "say")
)
ASK, TELL = Message("user", "What is there?"), Message("assistant", "A ship.")
_MORE = (Message("user", "And now?"), Message("assistant", "Two ships, 🙂 née."))
LOOK_RESULT = Message(
    "tool", '{"seen": "waves"}', name="look", fields={"tool_call_id": "call00001"}
)
_SAID = Message("tool", "done", name="say", fields={"tool_call_id": "call00002"})


@dataclasses.dataclass(frozen=True)
class Case:
    """A conversation of one shape."""

    name: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def _calling(*calls: dict[str, Any]) -> Message:
    return Message("assistant", "", tool_calls=calls)


CALL_LOOK = _calling(_LOOK)
CASES = (
    Case("one turn", (ASK, TELL)),
    Case("two turns", (ASK, TELL, *_MORE)),
    Case("system", (Message("system", "Be brief."), ASK, TELL, *_MORE)),
    Case("user last", (ASK, TELL, ASK)),
    Case("white space", (Message("user", " a\n"), Message("assistant", "  b\n\n c \n"), *_MORE)),
    Case("tool call", (ASK, _calling(_LOOK), LOOK_RESULT, TELL), TOOLS),
    Case("two tool calls", (ASK, _calling(_LOOK, _SAY), LOOK_RESULT, _SAID, TELL), TOOLS),
    Case("tool call last", (ASK, TELL, ASK, _calling(_LOOK)), TOOLS),
    Case("reasoning", (ASK, dataclasses.replace(TELL, reasoning="Hm, look.\nSo."))),
    Case(
        "reasoning, two turns",
        (ASK, dataclasses.replace(TELL, reasoning="Hm."), _MORE[0])
        + (dataclasses.replace(_MORE[1], reasoning="So."),),
    ),
    Case(
        "reasoning in the content",
        (ASK, Message("assistant", "<think>\nHm.\n</think>\n\nA ship."), *_MORE),
    ),
)
SWITCHES = ("enable_thinking", "thinking")
