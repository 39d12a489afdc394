"""Which characters of a rendered text are trained: the chosen parts of its supervised turns.

A turn, from the end of its generation prompt to its end-of-turn token, is cut by provenance:

    <think> hm </think> Let me see. <tool_call> {"name": " look "} </tool_call> <|im_end|>
    frame   r. frame    content     tool_calls                                  end_of_turn

Characters that the template wrote belong to the tool calls where a call stands beside them, even
on one side only: they are its scaffolding. The others are the frame: marks around the reasoning
and white space. The frame is trained along with the content or the reasoning, so without
"reasoning" the model still learns to open and to close its thinking, as it must when it is
served, but not what to think.
"""

import bisect
import itertools
from collections.abc import Collection, Iterator, Sequence

from jaxsft.data.conversation import Message, RowError
from jaxsft.data.render.recovered import REASONING_ENDS
from jaxsft.data.render.template import Span, TrainingText

Range = tuple[int, int, float]  # start, stop, weight

_WHOLE_TURN = {"content", "reasoning", "tool_calls", "end_of_turn"}
_OWN_PARTS = ("reasoning", "tool_calls")  # fields that are parts; any other counts as content


def trained_ranges(
    text: TrainingText, messages: Sequence[Message], parts: Collection[str]
) -> list[Range]:
    """The characters to train, in order; neighbours of one turn are one range.

    A tool's result is trained, with "tool_results", where the assistant turn that reads it is.

    Raises:
        RowError: content and reasoning are to be told apart but stand in one string.
    """
    if _WHOLE_TURN <= set(parts):
        ranges = [(span.start, span.stop, span.weight) for span in text.spans]
    else:
        if ("content" in parts) != ("reasoning" in parts):
            for span in text.spans:
                _refuse_inline_reasoning(messages[span.message], span.message)
        ranges = [found for span in text.spans for found in _turn_ranges(text, span, parts)]
    if "tool_results" in parts:
        ranges = sorted([*ranges, *_result_ranges(text, messages)])
    else:
        _refuse_weighted_results(messages)
    return list(_by_part(text, ranges, messages))


def _by_part(
    text: TrainingText, ranges: Sequence[Range], messages: Sequence[Message]
) -> Iterator[Range]:
    """The ranges cut where a part of a content has a weight of its own.

    content   a b c d e        the range [0, 6) of weight 1, parts of weights 0 and 0.5
    parts     0 0 .5 .5 .      and one without: [2, 4) of 0.5 and [4, 6) of 1 are left
    """
    own = list(_weighted_parts(text, messages))
    place = 0
    for start, stop, weight in ranges:
        pieces: list[Range] = []
        at = start
        while place < len(own) and own[place][0] < stop:
            first, last, factor = own[place]
            place += 1
            first, last = max(first, at), min(last, stop)
            pieces += [(at, first, weight), (first, last, weight * factor)]
            at = max(at, last)
        for first, last, kept in _joined([*pieces, (at, stop, weight)]):
            if kept:
                yield first, last, kept


def _weighted_parts(text: TrainingText, messages: Sequence[Message]) -> Iterator[Range]:
    """Where the parts of contents that have a weight stand in the text."""
    for start, stop, (index, field, _), first, last in text.text.runs:
        if index < 0 or field != "content":
            continue
        begin = 0
        for end, weight in messages[index].part_weights:
            a, b = max(begin, first), min(end, last)
            if a < b and weight is not None:
                # A run that is longer than its source is one character's escape.
                yield start + a - first, stop if b == last else start + b - first, weight
            begin = end


def _joined(pieces: Sequence[Range]) -> Iterator[Range]:
    """Neighbours of one weight as one, so that no token straddles a border that is none."""
    for weight, group in itertools.groupby((p for p in pieces if p[0] < p[1]), lambda p: p[2]):
        alike = list(group)
        yield alike[0][0], alike[-1][1], weight


def _turn_ranges(text: TrainingText, span: Span, parts: Collection[str]) -> list[Range]:
    ranges: list[Range] = []
    for start, stop, part in _pieces(text, span):
        is_trained = part in parts
        if part == "frame":
            is_trained = "content" in parts or "reasoning" in parts
        if not is_trained or start == stop:
            continue
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, stop, span.weight))
    return ranges


def _pieces(text: TrainingText, span: Span) -> Iterator[tuple[int, int, str]]:
    """The whole span as (start, stop, part), one after another."""
    controls, runs = text.controls, text.text.runs
    last = bisect.bisect_left(controls, span.stop, key=lambda control: control.stop)
    is_there = last < len(controls) and controls[last].stop == span.stop
    end = controls[last].start if is_there else span.stop
    first = bisect.bisect_left(runs, span.start, key=lambda run: run[0])
    after = bisect.bisect_right(runs, end, key=lambda run: run[1])
    own = [
        (start, stop, field if field in _OWN_PARTS else "content")
        for start, stop, (message, field, _), *_ in runs[first:after]
        if message == span.message
    ]
    at, before = span.start, "frame"
    for start, stop, part in [*own, (end, span.stop, "end_of_turn")]:
        yield at, start, "tool_calls" if "tool_calls" in (before, part) else "frame"
        yield start, stop, part
        at, before = stop, part


def _result_ranges(text: TrainingText, messages: Sequence[Message]) -> Iterator[Range]:
    trained = {span.message for span in text.spans}
    for start, stop, (index, field, _), *_ in text.text.runs:
        if index < 0 or field != "content" or messages[index].role != "tool":
            continue
        readers = (i for i in range(index, len(messages)) if messages[i].role == "assistant")
        weight = messages[index].weight
        if next(readers, None) in trained and weight != 0:
            yield start, stop, 1.0 if weight is None else weight


def _refuse_weighted_results(messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        if message.role == "tool" and message.weight:
            raise RowError(
                "weight of another role",
                f"messages[{index}] has role 'tool' and is to be trained (weight "
                f"{message.weight:g}), but data.train_parts has no 'tool_results': add it, or take "
                "the weight off",
            )


def _refuse_inline_reasoning(message: Message, index: int) -> None:
    found = [mark for mark in REASONING_ENDS if mark in message.content]
    if found:
        raise RowError(
            "reasoning inside content",
            f"messages[{index}]: its content holds {found[0]!r}: to train one of content and "
            "reasoning alone (data.train_parts), move the reasoning to reasoning_content",
        )
