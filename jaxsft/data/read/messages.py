"""One message of a row, as a conversation has it."""

from typing import Any

from jaxsft.data.conversation import ROLES, Message, PartWeights, RowError
from jaxsft.data.read.content import content_of, refuse_media
from jaxsft.data.read.strict_json import clip
from jaxsft.data.read.tool_calls import tool_calls_of
from jaxsft.data.read.weights import NUMBER_KEYS, SWITCH_KEYS, multiplied, weight_of

# OpenAI renamed two roles; no template but gpt-oss's knows the new name of system, and that one
# treats both alike.
_OTHER_ROLES = {"developer": "system", "function": "tool"}
# The names under which data sets keep an assistant's reasoning, in transformers' order.
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_KNOWN_KEYS = {
    *("role", "content", "tool_calls", "function_call", "name"),
    *REASONING_KEYS,
    *NUMBER_KEYS,
    *SWITCH_KEYS,
}


def parse_message(value: Any, where: str = "message") -> Message:
    """A checked Message from its JSON object, as OpenAI writes them.

    `content` may be null or missing only beside an assistant's tool calls; it is then "". Other
    keys whose value is null count as missing.

    Raises:
        RowError: naming `where`, the value and what was expected.
    """
    if not isinstance(value, dict):
        raise RowError("message not an object", f"{where} is {clip(value)}; expected an object")
    value = {key: item for key, item in value.items() if item is not None}
    role = _role(value.get("role"), where)
    refuse_media(value, where)
    calls = tool_calls_of(value, role, where)
    content, parts = content_of(value.get("content"), bool(calls), where)
    name = value.get("name")
    if not isinstance(name, str | None):
        raise RowError("name not a string", f"{where} has name {clip(name)}")
    fields = {key: item for key, item in value.items() if key not in _KNOWN_KEYS}
    reasoning = _reasoning(value, role, where)
    weight = _weights(value, role, parts, bool(reasoning or calls), where)
    return Message(role, content, reasoning, calls, name, weight, fields, parts)


def _role(role: Any, where: str) -> str:
    known = _OTHER_ROLES.get(role, role) if isinstance(role, str) else None
    if known not in ROLES:
        expected = "expected system, user, assistant or tool"
        raise RowError("unknown role", f"{where} has role {clip(role)}; {expected}")
    return known


def _reasoning(message: dict[str, Any], role: str, where: str) -> str | None:
    given = [(key, message[key]) for key in REASONING_KEYS if key in message]
    if role != "assistant":
        given = [(key, value) for key, value in given if value != ""]
    if not given:
        return None
    key, reasoning = given[0]
    if not isinstance(reasoning, str):
        raise RowError("reasoning not a string", f"{where} has {key} {clip(reasoning)}")
    if role != "assistant":
        detail = f"{where} has role {role!r} and {key} {clip(reasoning)}; only assistants reason"
        raise RowError("reasoning of another role", detail)
    for other, value in given[1:]:
        if value != reasoning:
            detail = f"{where} has {key} {clip(reasoning)} and {other} {clip(value)}; keep one"
            raise RowError("two reasonings", detail)
    return reasoning


def _weights(
    message: dict[str, Any], role: str, parts: PartWeights, has_more: bool, where: str
) -> float | None:
    """The message's own weight; where its parts have some, whether any of it is trained.

    Args:
        has_more: reasoning or calls, which are no parts of the content.
    """
    weight = weight_of(message, where)
    trained = [own for _, own in parts if own]
    given = [own for own in (weight, *trained) if own]
    if given and role not in ("assistant", "tool"):
        detail = f"{where} has role {role!r} and is to be trained (weight {given[0]:g}), but "
        raise RowError(
            "weight of another role", detail + "only an assistant's words are: take the weight off"
        )
    for own in trained:
        if weight == 0:
            raise RowError("two weights", f"{where} has weight 0 and a part of {own:g}; keep one")
        multiplied({"weight": 1.0 if weight is None else weight, "part": own}, where)
    if not parts or weight is not None:
        return weight
    return float(has_more or any(own != 0 for _, own in parts))
