"""The messages of a row, from each form in which data sets write a dialogue."""

import dataclasses
from collections import deque
from collections.abc import Mapping
from typing import Any

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.read.messages import parse_message
from jaxsft.data.read.strict_json import clip
from jaxsft.data.read.tool_calls import from_text, tool_call

# The names of the speakers in ShareGPT's data sets.
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("observation", "tool", "tool_response", "function_response"), "tool"),
    "system": "system",
}
_CALLS = ("function_call", "tool_call")
# Variables of a template that a row may not set.
_RESERVED = {
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
    *("chat_template", "tokenize"),
}


def messages_of(row: dict[str, Any], form: str, names: Mapping[str, str]) -> tuple[Message, ...]:
    """The messages of a row that has the keys of `form`.

    Args:
        names: a message's key -> what this data set calls it.

    Raises:
        RowError: naming the message, the value and what was expected.
    """
    if form == "messages":
        messages = _list(row, "messages", names)
    elif form == "sharegpt":
        messages = _sharegpt(row, names)
    elif form == "alpaca":
        messages = _alpaca(row)
    elif form == "prompt_completion":
        messages = _prompt_completion(row, names)
    else:
        messages = [_said("user", row, "question"), _said("assistant", row, "answer")]
    if all(message.role != "assistant" for message in messages):
        roles = sorted({message.role for message in messages})
        detail = f"messages have roles {roles}; none is assistant to train on"
        raise RowError("no assistant message", detail)
    return _with_system(messages, row)


def template_options(value: Any) -> dict[str, Any]:
    """A row's `chat_template_kwargs`: variables of the template such as enable_thinking.

    A null is a variable that isn't set: Arrow gives each row the keys of all the others.

    Raises:
        RowError: it isn't an object, or sets what isn't a row's to set.
    """
    kind = "bad chat_template_kwargs"
    value = from_text(value, kind, "chat_template_kwargs")
    options = {} if value is None else value
    if not isinstance(options, dict):
        raise RowError(kind, f"chat_template_kwargs is {clip(value)}; expected an object")
    for key in options:
        if key in _RESERVED:
            raise RowError(kind, f"chat_template_kwargs sets {key!r}, which is not a row's to set")
    return {key: item for key, item in options.items() if item is not None}


def _with_system(messages: list[Message], row: dict[str, Any]) -> tuple[Message, ...]:
    """With the row's own `system`, if it has one, as the first message."""
    if row.get("system", "") == "":
        return tuple(messages)
    system = _said("system", row, "system")
    if messages[0].role != "system":
        return (system, *messages)
    if messages[0].content != system.content:
        detail = f"has system {clip(system.content)} and a first message of role system; keep one"
        raise RowError("two system messages", detail)
    return tuple(messages)


def _said(role: str, row: dict[str, Any], key: str) -> Message:
    if not isinstance(row[key], str):
        raise RowError("not a string", f"{key} is {clip(row[key])}; expected a string")
    return Message(role, row[key])


def _list(row: dict[str, Any], key: str, names: Mapping[str, str]) -> list[Message]:
    return [parse_message(item, f"{key}[{i}]") for i, item in enumerate(_items(row, key, names))]


def _items(row: dict[str, Any], key: str, names: Mapping[str, str]) -> list[Any]:
    """The objects of the list under `key`, or of its JSON text, under the format's own keys."""
    value = row[key]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = from_text(value, "messages not a list", key)
    if not isinstance(value, list):
        detail = f"{key} is {clip(value)}; expected a list of messages"
        raise RowError("messages not a list", detail)
    if not value:
        raise RowError("no messages", f"{key}=[]: there is no message")
    if not names:
        return value
    return [_renamed(item, f"{key}[{i}]", names) for i, item in enumerate(value)]


def _renamed(item: Any, where: str, names: Mapping[str, str]) -> Any:
    if not isinstance(item, dict):
        return item
    result = {key: value for key, value in item.items() if key not in names.values()}
    for key, theirs in names.items():
        if theirs in item:
            result[key] = item[theirs]
        elif key in ("role", "from"):
            detail = f"{where} has no {theirs!r}, which columns maps to {key!r}"
            raise RowError("missing key", f"{detail}; its keys are {sorted(item)}")
    return result


def _prompt_completion(row: dict[str, Any], names: Mapping[str, str]) -> list[Message]:
    """A string is a message of the user or the assistant. A prompt's answers are not trained."""
    if isinstance(row["prompt"], str):
        prompt = [_said("user", row, "prompt")]
    else:
        prompt = _list(row, "prompt", names)
    if isinstance(row["completion"], str):
        completion = [_said("assistant", row, "completion")]
    else:
        completion = _list(row, "completion", names)
    if all(message.role != "assistant" for message in completion):
        roles = sorted({message.role for message in completion})
        detail = f"completion has roles {roles}; none is assistant to train on"
        raise RowError("no assistant message", detail)
    return [_untrained(message) for message in prompt] + completion


def _untrained(message: Message) -> Message:
    if message.role != "assistant" or message.weight is not None:
        return message
    return dataclasses.replace(message, weight=0.0)


def _alpaca(row: dict[str, Any]) -> list[Message]:
    """`history` holds the pairs of earlier turns; `input` follows `instruction` after a blank
    line."""
    messages = []
    history = row.get("history", [])
    for i, pair in enumerate(history if isinstance(history, list) else [history]):
        if not isinstance(pair, list | tuple) or not [type(said) for said in pair] == [str, str]:
            detail = f"history[{i}] is {clip(pair)}; expected [instruction, output]"
            raise RowError("bad history", detail)
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    asked = _said("user", row, "instruction")
    if row.get("input", "") != "":
        given = _said("user", row, "input").content
        asked = Message("user", f"{asked.content}\n\n{given}")
    return [*messages, asked, _said("assistant", row, "output")]


def _sharegpt(row: dict[str, Any], names: Mapping[str, str]) -> list[Message]:
    """An observation gets the name of the function whose call it answers."""
    messages: list[Message] = []
    called: deque[str] = deque()
    for i, item in enumerate(_items(row, "conversations", names)):
        where = f"conversations[{i}]"
        message = _sharegpt_message(item, where)
        called.extend(call["function"]["name"] for call in message.tool_calls)
        if message.role == "tool" and message.name is None and called:
            message = dataclasses.replace(message, name=called.popleft())
        messages.append(message)
    return messages


def _sharegpt_message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise RowError("message not an object", f"{where} is {clip(item)}; expected an object")
    if "from" not in item and "role" in item:
        detail = f"{where} has 'role', not 'from'; set format='messages' and "
        raise RowError("missing key", detail + "columns={'messages': 'conversations'}")
    speaker, value = item.get("from"), item.get("value")
    others = {key: said for key, said in item.items() if key not in ("from", "value")}
    if speaker in _CALLS:
        calls = _calls(value, where)
        return parse_message({**others, "role": "assistant", "tool_calls": calls}, where)
    role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        expected = "expected human, gpt, system, function_call or observation"
        raise RowError("unknown role", f"{where} has from {clip(speaker)}; {expected}")
    if not isinstance(value, str):
        detail = f"{where} has value {clip(value)}; expected a string"
        raise RowError("content not a string", detail)
    return parse_message({**others, "role": role, "content": value}, where)


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """One call, or a list of parallel ones, as JSON text or as an object."""
    value = from_text(value, "bad tool_calls", f"{where}: function_call")
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise RowError("bad tool_calls", f"{where}: function_call is []: there is no call")
    return [tool_call(call, where) for call in calls]
