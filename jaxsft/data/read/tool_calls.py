"""Tools and tool calls as templates expect them, from each form in which data sets write them."""

from typing import Any

from jaxsft.data.conversation import RowError
from jaxsft.data.read.strict_json import clip, parse

# Where a call may have its arguments: OpenAI's name and those of other libraries.
ARGUMENTS = (
    *("arguments", "parameters", "args", "input", "inputs", "params", "kwargs"),
    *("tool_input", "action_input", "tool_args", "tool_arguments", "function_arguments"),
)
# Other keys that a call may have. Any further one may have been meant as the arguments.
_OTHERS = {"id", "type", "index", "function", "name", "description", "strict", "call_id", "status"}
# Names under which nothing reads the calls of a message.
_OTHER_CALLS = ("tool_call", "toolCalls", "toolcalls", "function_calls", "calls", "tool_uses")


def tool_calls_of(message: dict[str, Any], role: str, where: str) -> tuple[dict[str, Any], ...]:
    """Tool calls whose arguments are objects: JSON text in `arguments` is read.

    Raises:
        RowError: no list of calls, calls of another role or under another key.
    """
    value = message.get("tool_calls", [])
    for other in _OTHER_CALLS:
        if message.get(other) and isinstance(message[other], list | dict | str):
            detail = f"{where} has {other} {clip(message[other])}; calls are read from 'tool_calls'"
            raise RowError("bad tool_calls", detail)
    if "function_call" in message:  # OpenAI's older form, of one call
        if value:
            detail = f"{where} has both function_call and tool_calls; keep one"
            raise RowError("bad tool_calls", detail)
        value = [message["function_call"]]
    if not isinstance(value, list):
        raise RowError("bad tool_calls", f"{where} has tool_calls {clip(value)}; expected a list")
    if value and role != "assistant":
        detail = f"{where} has role {role!r} and tool_calls; only an assistant calls tools"
        raise RowError("bad tool_calls", detail)
    return tuple(tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(value))


def tool_call(call: Any, where: str) -> dict[str, Any]:
    """The call as {"type": "function", "function": {"name", "arguments"}}, its id kept.

    A call that says nothing of arguments has {}: a function may take none.

    Raises:
        RowError: it has no name, its arguments are no JSON object or stand twice, or it has none
            but a key that may have been meant as them.
    """
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        detail = f"{where} is {clip(call)}; expected a function with a name"
        raise RowError("bad tool_calls", detail)
    arguments = _arguments(call, function, where)
    kept = {key: item for key, item in function.items() if key not in ARGUMENTS}
    if "function" in call:
        around = {key: item for key, item in call.items() if key not in ARGUMENTS}
        return {**around, "function": {**kept, "arguments": arguments}}
    # LangChain's calls have a type of their own.
    around = {key: call[key] for key in ("id", "type") if call.get(key) is not None}
    if around.get("type") == "tool_call":
        around["type"] = "function"
    function = {key: item for key, item in kept.items() if key not in ("id", "type")}
    return {"type": "function", **around, "function": {**function, "arguments": arguments}}


def _arguments(call: dict[str, Any], function: dict[str, Any], where: str) -> dict[str, Any]:
    holders = [function] if function is call else [function, call]
    given: dict[str, Any] = {}
    for holder in holders:
        for key in ARGUMENTS:
            if holder.get(key) is None:
                continue
            value = from_text(holder[key], "bad tool_calls", f"{where}: {key}")
            if value is None:
                continue
            if given and value != next(iter(given.values())):
                first = next(iter(given))
                detail = f"{where} has {first} {clip(given[first])} and {key} {clip(value)}"
                raise RowError("bad tool_calls", f"{detail}; keep one")
            given.setdefault(key, value)
    if not given:
        unknown = {key for holder in holders for key, item in holder.items() if item is not None}
        if unknown := unknown - _OTHERS - {*ARGUMENTS}:
            detail = f"{where} has no arguments but {clip(sorted(unknown))}; they are read from "
            raise RowError("bad tool_calls", detail + f"{', '.join(ARGUMENTS[:4])} and the like")
        return {}
    key, value = next(iter(given.items()))
    if not isinstance(value, dict):
        raise RowError("bad tool_calls", f"{where} has {key} {clip(value)}; expected an object")
    return value


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
        raise RowError("bad tools", f"tools is {clip(value)}; expected a list of objects")
    return tuple(_tool(tool) for tool in tools)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if "function" in tool or "name" not in tool or tool.get("type", "function") != "function":
        return tool
    function = {key: item for key, item in tool.items() if key != "type"}
    return {"type": "function", "function": function}


def required_of(tools: tuple[dict[str, Any], ...] | None) -> dict[str, list[Any]]:
    """The arguments that a call of each function must have, by the function's name."""
    required = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        parameters = function.get("parameters") if isinstance(function, dict) else None
        needed = parameters.get("required") if isinstance(parameters, dict) else None
        if isinstance(needed, list) and needed and isinstance(function.get("name"), str):
            required[function["name"]] = needed
    return required


def check_required(
    calls: tuple[dict[str, Any], ...], required: dict[str, list[Any]], where: str
) -> None:
    """Returns where every call has arguments that must have some.

    Args:
        required: names of arguments, by function.

    Raises:
        RowError: a call has no arguments at all, of a function that must have some.
    """
    for call in calls:
        name = call["function"]["name"]
        if name in required and not call["function"]["arguments"]:
            detail = f"{where} calls {name!r} without arguments, but tools says that it needs "
            raise RowError("bad tool_calls", detail + clip(required[name]))


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
