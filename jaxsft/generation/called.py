"""Tool calls in the text of an answer, as models of many families spell them.

<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>      Hermes, Qwen, SmolLM
[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}}]               Mistral
[TOOL_CALLS]f{"x": 1}            [TOOL_CALLS]f[ARGS]{"x": 1}     Mistral, later
<|python_tag|>{"name": "f", "parameters": {"x": 1}}              Llama 3, also without the mark
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_MARKS = re.compile(r"<tool_call>|<\|tool_call\|>|\[TOOL_CALLS\]|<\|python_tag\|>")
_NAMED = re.compile(r"\s*([\w.-]+)(?:\[ARGS\])?\s*(?=\{)")
_DECODER = json.JSONDecoder()


def tool_calls(text: str) -> list[dict[str, Any]]:
    """The calls in OpenAI's form, in their order; none where the text has none that can be read."""
    marks = [match.end() for match in _MARKS.finditer(text)]
    starts = marks or ([0] if text.lstrip().startswith("{") else [])
    found = [call for start in starts for call in _calls_at(text, start)]
    return [{"type": "function", "function": call} for call in found]


def words_before(text: str) -> str:
    """What an answer with calls says before the first of them."""
    mark = _MARKS.search(text)
    return text[: mark.start()].strip() if mark else ""


def _calls_at(text: str, start: int) -> Iterator[dict[str, Any]]:
    if named := _NAMED.match(text, start):
        arguments = _json_at(text, named.end())
        if isinstance(arguments, dict):
            yield {"name": named[1], "arguments": arguments}
        return
    value = _json_at(text, start)
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            continue
        one = one["function"] if isinstance(one.get("function"), dict) else one
        arguments = one.get("arguments", one.get("parameters"))
        if isinstance(one.get("name"), str) and isinstance(arguments, dict):
            yield {"name": one["name"], "arguments": arguments}


def _json_at(text: str, start: int) -> Any:
    rest = text[start:].lstrip()
    try:
        return _DECODER.raw_decode(rest)[0]
    except (ValueError, RecursionError):
        return None
