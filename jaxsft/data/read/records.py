"""What a row of a data set becomes: a conversation, plain text, tokens, or a named defect."""

import dataclasses
import math
from typing import Any

import numpy as np

from jaxsft.data.read.strict_json import RowError as RowError
from jaxsft.data.read.strict_json import parse, show
from jaxsft.data.read.strict_json import strings as strings

ROLES = ("system", "user", "assistant", "tool")
# OpenAI renamed two roles; no template but gpt-oss's knows the new name of system, and that one
# treats both alike.
_OTHER_ROLES = {"developer": "system", "function": "tool"}
# The names under which data sets keep an assistant's reasoning, in transformers' order.
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
# The names under which they say how much, or whether, a message is trained.
NUMBER_KEYS, SWITCH_KEYS = ("weight", "loss_weight"), ("train", "loss")
_KNOWN_KEYS = {
    *("role", "content", "tool_calls", "function_call", "name"),
    *REASONING_KEYS,
    *NUMBER_KEYS,
    *SWITCH_KEYS,
}


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


@dataclasses.dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None
    file: str
    row: int  # from 1: a line of the file, or a place in its array or table
    template_options: dict[str, Any] = dataclasses.field(default_factory=dict)  # this row's own


@dataclasses.dataclass(frozen=True)
class PlainText:
    text: str
    file: str
    row: int


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


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that can't be used, with the reason counted in reports and the full sentence."""

    file: str
    row: int
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.file}:{self.row}: {self.detail}"


Record = Conversation | PlainText | Tokenized | BadRow


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
    calls = _tool_calls(value, role, where)
    content = _content(value.get("content"), bool(calls), where)
    name = value.get("name")
    if not isinstance(name, str | None):
        raise RowError("name not a string", f"{where} has name {show(name)}")
    fields = {key: item for key, item in value.items() if key not in _KNOWN_KEYS}
    reasoning, weight = _reasoning(value, role, where), _weight(value, where)
    return Message(role, content, reasoning, calls, name, weight, fields)


def parse_tools(value: Any) -> tuple[dict[str, Any], ...] | None:
    """Tools as templates expect them, from a list or its JSON text; None where there is none.

    A bare function, {"name": ...}, becomes {"type": "function", "function": {"name": ...}}.

    Raises:
        RowError: it is no list of objects.
    """
    value = from_text(value, "bad tools", "tools")
    if value is None or value == []:
        return None
    tools = value if isinstance(value, list) else [None]
    tools = [from_text(tool, "bad tools", f"tools[{i}]") for i, tool in enumerate(tools)]
    if not all(isinstance(tool, dict) for tool in tools):
        raise RowError("bad tools", f"tools is {show(value)}; expected a list of objects")
    return tuple(_tool(tool) for tool in tools)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if "function" in tool or "name" not in tool or tool.get("type", "function") != "function":
        return tool
    function = {key: item for key, item in tool.items() if key != "type"}
    return {"type": "function", "function": function}


def _role(role: Any, where: str) -> str:
    known = _OTHER_ROLES.get(role, role) if isinstance(role, str) else None
    if known not in ROLES:
        expected = "expected system, user, assistant or tool"
        raise RowError("unknown role", f"{where} has role {show(role)}; {expected}")
    return known


def _content(content: Any, has_calls: bool, where: str) -> str:
    if isinstance(content, list):
        content = "".join(_part(p, f"{where}.content[{i}]") for i, p in enumerate(content)) or None
    if content is None and has_calls:
        return ""
    if not isinstance(content, str):
        raise RowError(
            "content not a string",
            f"{where} has content {show(content)}; expected a string or a list of text parts",
        )
    return content


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        expected = 'expected {"type": "text", "text": ...}'
        raise RowError("content not a string", f"{where} is {show(part)}; {expected}")
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        detail = f"{where} has type {show(part.get('type'))}"
        detail += f" and text {show(part.get('text'))}; only text can be trained on"
        raise RowError("content part not text", detail)
    return part["text"]


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


def _weight(message: dict[str, Any], where: str) -> float | None:
    weights: dict[str, float] = {}
    for key in NUMBER_KEYS:
        weight = message.get(key)
        if weight is None:
            continue
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            expected = "expected a number of 0 or more"
            raise RowError("bad weight", f"{where} has {key} {show(weight)}; {expected}")
        weights[key] = float(weight)
    for key in SWITCH_KEYS:
        switch = message.get(key)
        if switch is None:
            continue
        if not isinstance(switch, bool):
            raise RowError(
                "bad weight", f"{where} has {key} {show(switch)}; expected true or false"
            )
        weights[key] = float(switch)
    if len(set(weights.values())) > 1:
        raise RowError("two weights", f"{where} has the weights {weights}; keep one")
    return next(iter(weights.values()), None)


def _tool_calls(message: dict[str, Any], role: str, where: str) -> tuple[dict[str, Any], ...]:
    """Tool calls whose arguments are objects: JSON text in `arguments` is read (D2)."""
    value = message.get("tool_calls", [])
    if "function_call" in message:  # OpenAI's older form, of one call
        if value:
            detail = f"{where} has both function_call and tool_calls; keep one"
            raise RowError("bad tool_calls", detail)
        value = [message["function_call"]]
    if not isinstance(value, list):
        raise RowError("bad tool_calls", f"{where} has tool_calls {show(value)}; expected a list")
    if value and role != "assistant":
        detail = f"{where} has role {role!r} and tool_calls; only an assistant calls tools"
        raise RowError("bad tool_calls", detail)
    return tuple(tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(value))


def tool_call(call: Any, where: str) -> dict[str, Any]:
    """The call as {"type": "function", "function": {"name", "arguments"}}, its id kept.

    Raises:
        RowError: it has no name, or its arguments are no JSON object.
    """
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        detail = f"{where} is {show(call)}; expected a function with a name"
        raise RowError("bad tool_calls", detail)
    arguments = function.get("arguments")
    arguments = from_text(arguments, "bad tool_calls", f"{where}: arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        detail = f"{where} has arguments {show(arguments)}; expected an object"
        raise RowError("bad tool_calls", detail)
    if "function" in call:
        return {**call, "function": {**function, "arguments": arguments}}
    around = {key: call[key] for key in ("id", "type") if call.get(key) is not None}
    function = {key: item for key, item in call.items() if key not in around}
    return {"type": "function", **around, "function": {**function, "arguments": arguments}}


def from_text(value: Any, kind: str, where: str) -> Any:
    """The value, read from JSON where it is text; blank text is None.

    Raises:
        RowError: of `kind`, naming `where`: the text is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse(value) if value.strip() else None
    except RowError as error:
        raise RowError(kind, f"{where} {error}") from None
