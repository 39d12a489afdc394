"""Whether a rendering has all that the messages say, by the record of where it has it from.

said     " a  b "              the string of a message
text     <s>a  b<e>            recovered: white space at its edges may go
text     <s>a b<e>             its white space is changed
text     <s>a<e>               "b" is lost
"""

import bisect
import dataclasses
import html
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxsft.data.conversation import Message
from jaxsft.data.render.provenance import Stretch, Traced

_SHOWN = 60  # characters of what is lost
_LONGEST_ESCAPED = 200  # characters that a template escapes by hand side by side
_MARK_STARTS, _MARK_ENDS = ("<", "[", "\u25c1"), (">", "]", "\u25b7")
# Marks that close reasoning which stands inside the content, in the formats of public data sets.
REASONING_ENDS = ("</think>", "</thinking>", "</reasoning>", "[/THINK]", "\u25c1/think\u25b7")


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a rendering does not have: the kind under which rows are counted, and a sentence."""

    kind: str
    message: int
    reason: str


class Sources:
    """The runs of a text by the message that they come from."""

    def __init__(self, text: Traced):
        self.text = str.__getitem__(text, slice(None))
        self.runs = text.runs
        self._of: dict[int, list[Stretch]] = {}
        for run in text.runs:
            self._of.setdefault(run[2][0], []).append(run)

    def next_start(self, place: int) -> int:
        """Where the first run starts that does not start before the place."""
        index = bisect.bisect_left(self.runs, place, key=lambda run: run[0])
        return self.runs[index][0] if index < len(self.runs) else len(self.text)

    def last_stop(self, place: int) -> int:
        """Where the last run stops that does not stop after the place."""
        index = bisect.bisect_right(self.runs, place, key=lambda run: run[1])
        return self.runs[index - 1][1] if index else 0

    def of(self, message: int) -> Sequence[Stretch]:
        """In the order of the text."""
        return self._of.get(message, ())

    def within(self, message: int, start: int, stop: int) -> list[Stretch]:
        """Those of which some stands there: a prompt may supply the beginning of an answer."""
        return [run for run in self.of(message) if run[1] > start and run[1] <= stop]


def lost_turn(sources: Sources, message: Message, turn: int, start: int, stop: int) -> Loss | None:
    """What a supervised turn says but the text does not have in its span, as it was said."""
    own = _by_string(sources.within(turn, start, stop))
    for field, said in (("content", message.content), ("reasoning", message.reasoning or "")):
        runs = own.get((field, ""), [])
        what = _altered(sources.text, runs, said) or _lost(sources, runs, said)
        what = what or _moved(sources.text, runs)
        if what:
            return Loss(f"{field} not rendered", turn, f"its {field} {what}")
    return _lost_call(sources, own, message, turn)


def lost_context(sources: Sources, messages: Sequence[Message]) -> Loss | None:
    """What the messages say but the text does not have; white space is no loss.

    A template may leave the reasoning out of answers that came before, and all of an answer that
    consists of nothing else.
    """
    for index, message in enumerate(messages):
        own = _by_string(sources.of(index))
        runs, what = own.get(("content", ""), []), ""
        if message.content.strip() and not runs:
            if message.role != "assistant" or _without_reasoning(message.content):
                what = f"is left out (role {message.role!r}): {_shown(message.content)}"
        elif message.role != "assistant":
            what = _lost(sources, runs, message.content, keep_space=False)
        if what:
            return Loss("message left out", index, f"its content {what}")
        loss = _lost_call(sources, own, message, index)
        if loss:
            return loss
    return None


def lost_tool(sources: Sources, tools: Sequence[Mapping[str, Any]] | None) -> int | None:
    """Index of the first tool of which the text has no word."""
    origins = (run[2] for run in sources.of(-1))
    seen = {path.partition("]")[0] for _, field, path in origins if field == "tools"}
    return next((i for i in range(len(tools or ())) if f"[{i}" not in seen), None)


def _without_reasoning(content: str) -> str:
    for mark in REASONING_ENDS:
        content = content.rpartition(mark)[2]
    return content.strip()


def _by_string(runs: Sequence[Stretch]) -> dict[tuple[str, str], list[Stretch]]:
    own: dict[tuple[str, str], list[Stretch]] = {}
    for run in runs:
        own.setdefault(run[2][1:], []).append(run)
    return own


def _lost_call(
    sources: Sources, own: Mapping[tuple[str, str], list[Stretch]], message: Message, index: int
) -> Loss | None:
    for path, said in _said_in_calls(message):
        runs = own.get(("tool_calls", path), [])
        what = _altered(sources.text, runs, said) or _lost(sources, runs, said, keep_edges=True)
        if what:
            where = f"tool_calls{path.removesuffix('#')}"
            return Loss("tool call not rendered", index, f"its {where} {what}")
    return None


def _said_in_calls(message: Message) -> Iterator[tuple[str, str]]:
    """The strings of the calls that the model must write: names, and all within arguments."""
    for i, call in enumerate(message.tool_calls):
        path, function = f"[{i}]", call
        if "function" in call:
            path, function = f"{path}.function", call["function"]
        yield f"{path}.name", function["name"]
        yield from _strings(function["arguments"], f"{path}.arguments")


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key}#", key
            yield from _strings(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _strings(item, f"{path}[{i}]")


def _lost(
    sources: Sources,
    runs: Sequence[Stretch],
    said: str,
    keep_space: bool = True,
    keep_edges: bool = False,
) -> str:
    """How characters of `said` are missing from its runs, or "".

    The template may write what it takes away itself, as marks around reasoning or an escape of its
    own: then that stands beside the runs.

    Args:
        keep_space: white space inside is a loss.
        keep_edges: white space at the edges is one too.
    """
    starts = {first: start for start, _, _, first, last in runs if first < last}
    stops = {last: stop for _, stop, _, first, last in runs if first < last}
    for first, last in _missing(runs, len(said)):
        gap = said[first:last]
        is_edge = first == 0 or last == len(said)
        if not gap.strip() and not (keep_edges if is_edge else keep_space):
            continue
        if not runs:
            return f"is left out: {_shown(said)}"
        before, after = stops.get(first), starts.get(last)
        is_before, is_after = after is not None, before is not None
        if before is None:
            before = sources.last_stop(sources.next_start(0) if after is None else after)
        if after is None or after < before:
            after, is_before = sources.next_start(before), False
        if not _stands_for(sources.text[before:after], gap, is_after, is_before):
            return f"loses {_shown(gap)}"
    return ""


def _missing(runs: Sequence[Stretch], size: int) -> Iterator[tuple[int, int]]:
    """What of [0, size) no run comes from."""
    at = 0
    for first, last in sorted((run[3], run[4]) for run in runs if run[3] < run[4]):
        if first > at:
            yield at, first
        at = max(at, last)
    if at < size:
        yield at, size


def _altered(text: str, runs: Sequence[Stretch], said: str) -> str:
    """How what stands for `said` is not as it was said, or ""."""
    for start, stop, _, first, last in runs:
        if stop - start == last - first and text[start:stop] != said[first:last]:
            return f"is changed: {_shown(said[first:last])} is {_shown(text[start:stop])}"
    for (_, stop, _, _, last), (start, _, _, first, _) in itertools.pairwise(runs):
        gap, written = said[last:first], text[stop:start]
        if first >= last and not gap.strip() and not _stands_for(written, gap):
            return f"is changed: {_shown(written)} stands where it has {_shown(gap)}"
    return ""


def _moved(text: str, runs: Sequence[Stretch]) -> str:
    """How what comes from a string is not in the order in which it was said, each once, or ""."""
    for (_, _, _, _, last), (start, stop, _, first, _) in itertools.pairwise(runs):
        if first < last:
            return f"is written again or in another order: {_shown(text[start:stop])}"
    return ""


def _stands_for(written: str, gap: str, at_start: bool = True, at_end: bool = True) -> bool:
    """Whether what the template wrote itself stands for what it took away.

    That is the same, each character maybe escaped; or marks, as of reasoning, with any white space
    around.

    Args:
        at_start: it stands where that starts, for what was said before ends there.
        at_end: it stands where that ends.
    """
    mark = "".join(gap.split())
    if mark[:1] in _MARK_STARTS and mark[-1:] in _MARK_ENDS and mark in "".join(written.split()):
        return True
    if len(gap) > _LONGEST_ESCAPED:
        return False
    pattern = "".join(f"(?:{'|'.join(map(re.escape, _forms(char)))})" for char in gap)
    pattern = pattern if at_start else f"(?s:.*){pattern}"
    pattern = pattern if at_end else f"{pattern}(?s:.*)"
    return re.fullmatch(pattern, written) is not None


def _forms(char: str) -> tuple[str, ...]:
    """The character, and how JSON, HTML, Python, SQL and templates by hand escape it."""
    code = ord(char)
    forms = [char, html.escape(char), f"&#{code};", f"&#x{code:x};"]
    forms += [json.dumps(char)[1:-1], json.dumps(char, ensure_ascii=False)[1:-1]]
    forms += [f"\\u{code:04x}", f"\\u{code:04X}", f"\\x{code:02x}"]
    if not char.isalnum() and not char.isspace():
        forms += [f"\\{char}", char * 2]
    return tuple(forms)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
