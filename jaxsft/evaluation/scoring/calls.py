"""The tool calls in an answer, as the templates of the known families have models write them."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from jaxsft.config import scorers
from jaxsft.data.read.tool_calls import ARGUMENTS
from jaxsft.evaluation.scoring.case import Case, ScoreOne

# Hermes, Qwen and SmolLM; Mistral and Command; gpt-oss, whose call names its tool before the JSON.
_MARKED = re.compile(r"<tool_call>|\[TOOL_CALLS\]|<\|tool_calls?\|>|<\|python_tag\|>|Action:")
_CHANNEL = re.compile(r"to=functions\.([\w.-]+).{0,80}?<\|message\|>", re.DOTALL)
_DECODER = json.JSONDecoder()


def same_calls(settings: scorers.ToolCalls, where: str) -> ScoreOne:
    def score(case: Case) -> bool:
        wanted = case.row.get("reference_tool_calls", ())
        return _spelled(calls_in(case.answer)) == _spelled(wanted)

    return score


def _spelled(calls: Sequence[Any]) -> str:
    return json.dumps(list(calls), sort_keys=True)


def plain_calls(tool_calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """{"name", "arguments"} of the calls of a message."""
    functions = [call.get("function", call) for call in tool_calls]
    return [{"name": f.get("name"), "arguments": f.get("arguments", {})} for f in functions]


def calls_in(answer: str) -> list[dict[str, Any]]:
    """{"name", "arguments"} of each call in an answer, in order; JSON cut short is none."""
    named = list(_CHANNEL.finditer(answer))
    if named:
        found = [(one[1], next(_values(answer, one.end()), None)) for one in named]
        return [{"name": n, "arguments": v} for n, v in found if isinstance(v, dict)]
    starts = [one.end() for one in _MARKED.finditer(answer)]
    if not starts and answer.lstrip().startswith(("{", "[{")):  # Llama: nothing but the call
        starts = [0]
    calls = []
    for start in starts:
        for value in _values(answer, start):
            calls += _calls(value)
    return calls


def _values(text: str, start: int) -> Iterator[Any]:
    """The JSON value that begins there, and those right behind it, which ; may divide."""
    while begin := re.compile(r"[\s;]*(?=[{\[])").match(text, start):
        try:
            value, start = _DECODER.raw_decode(text, begin.end())
        except (ValueError, RecursionError):
            return
        yield value


def _calls(value: Any) -> Iterator[dict[str, Any]]:
    for one in value if isinstance(value, list) else [value]:
        call = one.get("function", one) if isinstance(one, dict) else None
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            arguments = next((call[key] for key in ARGUMENTS if key in call), None)
            if isinstance(arguments, dict):
                yield {"name": call["name"], "arguments": arguments}
