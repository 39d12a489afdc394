"""Rows of a source file as conversations: every defect is named with its file and line."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxsft.config import Source
from jaxsft.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
# The names under which data sets keep an assistant's reasoning, in transformers' order.
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
MAX_LINE_BYTES = 64 * 2**20  # far above any conversation; keeps a broken file from filling memory
_BOM = b"\xef\xbb\xbf"


class RowError(DataError):
    """One row can't be used; `kind` is the short reason under which reports count it."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn; `content` is "" where the row has none beside its tool calls."""

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()  # arguments are objects, never JSON text
    name: str | None = None
    weight: float | None = None  # of the loss on this message; None means 1
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # for the template


@dataclasses.dataclass(frozen=True)
class Conversation:
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None
    file: str
    row: int  # line of the file, from 1


@dataclasses.dataclass(frozen=True)
class PlainText:
    text: str
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


Record = Conversation | PlainText | BadRow


def read_source(source: Source) -> Iterator[Record]:
    """Yields one record for each line of a JSONL file that isn't blank.

    Raises:
        DataError: the file is missing or empty, or format="auto" matches none of the formats.
    """
    path = Path(source.path)
    if not path.is_file():
        raise DataError(f"{source.path}: no such file")
    form = detect_format(source) if source.format == "auto" else source.format
    num_rows = 0
    with path.open("rb") as lines:
        for row, line in enumerate(lines, start=1):
            if line.strip():
                num_rows += 1
                yield read_row(line, form, source.path, row)
    if not num_rows:
        raise DataError(f"{source.path}: the file is empty")


def detect_format(source: Source) -> str:
    """The format whose keys stand in the file's first readable row."""
    with Path(source.path).open("rb") as lines:
        for line in lines:
            try:
                row = parse_json(line)
            except RowError:
                continue
            if "messages" in row:
                return "messages"
            if "prompt" in row and "completion" in row:
                return "prompt_completion"
            if "text" in row:
                return "text"
            raise DataError(
                f"{source.path}: format='auto' knows 'messages', 'prompt' with 'completion', or "
                f"'text', but the first row has {sorted(row)}"
            )
    return "messages"  # no readable row: read_source then reports each, or the empty file


def read_row(line: bytes, form: str, file: str, row: int) -> Record:
    """One line as a record; a defect becomes a BadRow."""
    try:
        value = parse_json(line)
        if form == "text":
            return PlainText(_text(value, "text"), file, row)
        messages, tools = _messages_of(value, form), _tools(value.get("tools"))
        return Conversation(messages, tools, file, row)
    except RowError as error:
        return BadRow(file, row, error.kind, str(error))
    except RecursionError:
        return BadRow(file, row, "nested too deep", "JSON is nested too deep to read")


def parse_json(line: bytes) -> dict[str, Any]:
    """A strict JSON object: no duplicate keys, NaN, infinities, NUL or lone surrogates.

    Raises:
        RowError: saying what is wrong and where.
    """
    if len(line) > MAX_LINE_BYTES:
        raise RowError(
            "line too long", f"line of {len(line)} bytes; at most {MAX_LINE_BYTES} are read"
        )
    if line.startswith(_BOM):
        raise RowError("byte order mark", "starts with a byte order mark (BOM); save it without")
    if b"\0" in line:
        raise RowError("NUL", f"has a NUL byte at column {line.index(0) + 1}")
    try:
        value = _loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError("not UTF-8", f"is not UTF-8: {error.reason} at byte {error.start}") from None
    if not isinstance(value, dict):
        raise RowError("not an object", f"is a JSON {type(value).__name__}; expected an object")
    if b"\\u" in line:  # the only way for either character to come through
        _refuse_characters(value)
    return value


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"{error.msg} at column {error.colno}"
        raise RowError("not JSON", f"is not JSON: {where}") from None
    except RecursionError:
        raise RowError("nested too deep", "JSON is nested too deep to read") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowError("duplicate key", f"has the key {twice!r} twice in one object")
    return result


def _refuse_constant(name: str) -> None:
    raise RowError("NaN or Infinity", f"has the constant {name}, which is not JSON")


def _refuse_characters(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    for index, char in enumerate(text):
        if "\ud800" <= char <= "\udfff":
            near = text[max(0, index - 20) : index]
            raise RowError("lone surrogate", f"has the lone surrogate \\u{ord(char):04x} at {near}")
    for string in strings(value):
        if "\0" in string:
            raise RowError("NUL", f"has a NUL character in {string[:40]!r}")


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys included, in the order of the text."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise RowError("missing key", f"has no {key!r}; its keys are {sorted(row)}")
    if not isinstance(row[key], str):
        raise RowError("not a string", f"{key} is {_show(row[key])}; expected a string")
    return row[key]


def _messages_of(row: dict[str, Any], form: str) -> tuple[Message, ...]:
    if form == "messages":
        items = _message_list(row, "messages", None)
    else:
        items = _message_list(row, "prompt", "user") + _message_list(row, "completion", "assistant")
    messages = tuple(parse_message(item, f"messages[{i}]") for i, item in enumerate(items))
    if all(message.role != "assistant" for message in messages):
        roles = [message.role for message in messages]
        raise RowError(
            "no assistant message", f"messages have roles {roles}; none is assistant to train on"
        )
    return messages


def _message_list(row: dict[str, Any], key: str, role: str | None) -> list[Any]:
    """The list of messages under `key`; a string there is one message of `role`."""
    value = row.get(key)
    if role is not None and isinstance(value, str):
        return [{"role": role, "content": value}]
    if key not in row:
        raise RowError("missing key", f"has no {key!r}; its keys are {sorted(row)}")
    if not isinstance(value, list):
        wanted = "a list of messages" if role is None else "a string or a list of messages"
        raise RowError("messages not a list", f"{key} is {_show(value)}; expected {wanted}")
    if not value:
        raise RowError("no messages", f"{key}=[]: there is no message")
    return value


def parse_message(value: Any, where: str = "message") -> Message:
    """A checked Message from its JSON object.

    `content` may be null or missing only beside an assistant's tool calls; it is then "".

    Raises:
        RowError: naming `where`, the value and what was expected.
    """
    if not isinstance(value, dict):
        raise RowError("message not an object", f"{where} is {_show(value)}; expected an object")
    role = value.get("role")
    if role not in ROLES:
        expected = "expected system, user, assistant or tool"
        raise RowError("unknown role", f"{where} has role {_show(role)}; {expected}")
    calls = _tool_calls(value.get("tool_calls"), where)
    content = value.get("content")
    if content is None and calls and role == "assistant":
        content = ""
    if not isinstance(content, str):
        raise RowError(
            "content not a string", f"{where} has content {_show(content)}; expected a string"
        )
    spoken = [key for key in REASONING_KEYS if value.get(key) is not None]
    reasoning = value[spoken[0]] if spoken else None
    name = value.get("name")
    for key, item in (("reasoning", reasoning), ("name", name)):
        if not isinstance(item, str | None):
            raise RowError(f"{key} not a string", f"{where} has {key} {_show(item)}")
    known = {"role", "content", "tool_calls", "name", "weight", *REASONING_KEYS}
    fields = {key: item for key, item in value.items() if key not in known}
    return Message(role, content, reasoning, calls, name, _weight(value, where), fields)


def _weight(message: dict[str, Any], where: str) -> float | None:
    weight = message.get("weight")
    if weight is None:
        return None
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight < 0:
        raise RowError(
            "bad weight", f"{where} has weight {_show(weight)}; expected a number of 0 or more"
        )
    return float(weight)


def _tool_calls(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Tool calls whose arguments are objects: JSON text in `arguments` is read (D2)."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowError("bad tool_calls", f"{where} has tool_calls {_show(value)}; expected a list")
    return tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(value))


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(
            "bad tool_calls", f"{where} is {_show(call)}; expected a function with a name"
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = _loads(arguments) if arguments.strip() else {}
            _refuse_characters(arguments)
        except RowError as error:
            raise RowError("bad tool_calls", f"{where}: arguments {error}") from None
    if not isinstance(arguments, dict):
        raise RowError(
            "bad tool_calls", f"{where} has arguments {_show(arguments)}; expected an object"
        )
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function


def _tools(value: Any) -> tuple[dict[str, Any], ...] | None:
    if isinstance(value, str):
        value = _loads(value)
        _refuse_characters(value)
    if value is None or value == []:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowError("bad tools", f"tools is {_show(value)}; expected a list of objects")
    return tuple(value)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
