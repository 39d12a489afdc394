"""What a row of a data set becomes: a conversation, plain text, tokens, or a named defect."""

import dataclasses
from typing import Any

import numpy as np

from jaxsft.data.read.content import PartWeights, content_of, refuse_media
from jaxsft.data.read.strict_json import RowError as RowError
from jaxsft.data.read.strict_json import show
from jaxsft.data.read.strict_json import strings as strings
from jaxsft.data.read.tool_calls import parse_tools as parse_tools
from jaxsft.data.read.tool_calls import tool_calls_of
from jaxsft.data.read.weights import NUMBER_KEYS, SWITCH_KEYS, product, weight_of

ROLES = ("system", "user", "assistant", "tool")
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

Columns = tuple[str, ...]  # of a row, that hold something but are not read


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn; `content` is "" where the row has none beside its tool calls."""

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()  # {"type", "function": {"name", "arguments": {}}}
    name: str | None = None
    weight: float | None = None  # of the loss on this message; None means 1
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # for the template
    # Of content in parts, some with a weight: it multiplies the message's own.
    part_weights: PartWeights = ()


@dataclasses.dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None
    file: str
    row: int  # from 1: a line of the file, or a place in its array or table
    template_options: dict[str, Any] = dataclasses.field(default_factory=dict)  # this row's own
    unread: Columns = dataclasses.field(default=(), compare=False)


@dataclasses.dataclass(frozen=True)
class PlainText:
    text: str
    file: str
    row: int
    unread: Columns = dataclasses.field(default=(), compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenized:
    """Tokens made by another program.

    ids      1  9 40  2   int32
    weights  0  0  1  1   float32, of each token as a target; the first is never one
    """

    ids: np.ndarray
    weights: np.ndarray
    file: str
    row: int
    unread: Columns = ()


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that can't be used, with the reason counted in reports and the full sentence."""

    file: str
    row: int
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}:{self.row}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A row that says itself that it is not to be trained."""

    file: str
    row: int
    reason: str


Record = Conversation | PlainText | Tokenized | LeftOut | BadRow


@dataclasses.dataclass(frozen=True)
class RawRow:
    """A row as the file has it, cheap to read and to send to the process that parses it."""

    file: str
    row: int
    # JSON text; an object of Arrow, whose nulls may be Arrow's own; None: a line too long to keep
    data: bytes | dict[str, Any] | None


def parse_message(value: Any, where: str = "message") -> Message:
    """A checked Message from its JSON object, as OpenAI writes them.

    `content` may be null or missing only beside an assistant's tool calls; it is then "". Other
    keys whose value is null count as missing.

    Raises:
        RowError: naming `where`, the value and what was expected.
    """
    if not isinstance(value, dict):
        raise RowError("message not an object", f"{where} is {show(value)}; expected an object")
    value = {key: item for key, item in value.items() if item is not None}
    role = _role(value.get("role"), where)
    refuse_media(value, where)
    calls = tool_calls_of(value, role, where)
    content, parts = content_of(value.get("content"), bool(calls), where)
    name = value.get("name")
    if not isinstance(name, str | None):
        raise RowError("name not a string", f"{where} has name {show(name)}")
    fields = {key: item for key, item in value.items() if key not in _KNOWN_KEYS}
    reasoning = _reasoning(value, role, where)
    weight = _weights(value, role, parts, bool(reasoning or calls), where)
    return Message(role, content, reasoning, calls, name, weight, fields, parts)


def _role(role: Any, where: str) -> str:
    known = _OTHER_ROLES.get(role, role) if isinstance(role, str) else None
    if known not in ROLES:
        expected = "expected system, user, assistant or tool"
        raise RowError("unknown role", f"{where} has role {show(role)}; {expected}")
    return known


def _reasoning(message: dict[str, Any], role: str, where: str) -> str | None:
    given = [(key, message[key]) for key in REASONING_KEYS if key in message]
    if role != "assistant":
        given = [(key, value) for key, value in given if value != ""]
    if not given:
        return None
    key, reasoning = given[0]
    if not isinstance(reasoning, str):
        raise RowError("reasoning not a string", f"{where} has {key} {show(reasoning)}")
    if role != "assistant":
        detail = f"{where} has role {role!r} and {key} {show(reasoning)}; only assistants reason"
        raise RowError("reasoning of another role", detail)
    for other, value in given[1:]:
        if value != reasoning:
            detail = f"{where} has {key} {show(reasoning)} and {other} {show(value)}; keep one"
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
        product({"weight": 1.0 if weight is None else weight, "part": own}, where)
    if not parts or weight is not None:
        return weight
    return float(has_more or any(own != 0 for _, own in parts))
