"""The rows of a source as prompts: a conversation up to its last answer, and that answer, if any.

{"messages": [user, assistant, user, assistant]}   user, assistant, user    assistant
{"messages": [system, user]}                       system, user             -
{"prompt": "2 + 2?"}                               user                     -
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from jaxsft.config import Source
from jaxsft.data.conversation import BadRow, Conversation, LeftOut, Message, RawRow, RowError
from jaxsft.data.read import formats, sources
from jaxsft.data.read.strict_json import parse_object
from jaxsft.errors import DataError

# Where a format has the answer that a prompt may lack.
_ANSWERS = {
    "alpaca": "output",
    "prompt_completion": "completion",
    "question_answer": "answer",
}
_LISTS = {
    "messages": ("messages", {"role": "assistant", "content": "-"}),
    "sharegpt": ("conversations", {"from": "gpt", "value": "-"}),
}
_SPEAKERS_OF_ANSWERS = ("assistant", "gpt", "chatgpt", "bing", "bard", "function_call", "tool_call")


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """
    Attributes:
        asked: its messages are those before the answer.
        answer: None: the row has none.
    """

    asked: Conversation
    answer: Message | None


def read_prompts(source: Source) -> Iterator[PromptRow | LeftOut | BadRow]:
    """
    Raises:
        DataError: a file is missing, empty or broken, or no format fits.
    """
    form = _form_of(source)
    for raw in sources.read_rows(source):
        yield _prompt_of(raw, form, source)


def _form_of(source: Source) -> str:
    """As of rows with answers; else the first format of which only the answer is missing."""
    unknown = None
    try:
        form = sources.form_of(source)
        if source.format != "auto" or form not in ("text", "tokenized"):
            return form
    except DataError as error:
        form, unknown = None, error
    keys = sources.first_keys(source) if source.format == "auto" else []
    for without, answer in _ANSWERS.items():
        asks = [key for key in formats.FORMATS[without].required if key != answer]
        if all(source.columns.get(key, key) in keys for key in asks):
            return without
    if unknown is not None:
        raise unknown
    assert form is not None
    return form


def _prompt_of(raw: RawRow, form: str, source: Source) -> PromptRow | LeftOut | BadRow:
    whole, lacks = _with_answer(raw, form, source)
    record = formats.record_of(whole, form, source.columns, source.ignore)
    if isinstance(record, LeftOut | BadRow):
        return record
    if not isinstance(record, Conversation):
        said = "is no conversation, of which the last user's turn is answered"
        return BadRow(raw.file, raw.row, "no prompt", said)
    before, last = record.messages[:-1], record.messages[-1]
    if last.role != "assistant":  # of a prompt/completion row that goes on
        before, lacks = record.messages, True
    if not before or before[-1].role not in ("user", "tool"):
        said = "has no turn of a user's or a tool's before its last answer: there is no prompt"
        return BadRow(raw.file, raw.row, "no prompt", said)
    asked = dataclasses.replace(record, messages=before)
    return PromptRow(asked, None if lacks else last)


def _with_answer(raw: RawRow, form: str, source: Source) -> tuple[RawRow, bool]:
    """The row as one that has an answer, for only such are read; and whether it had none."""
    try:
        row = parse_object(raw.data) if isinstance(raw.data, bytes) else raw.data
    except RowError:
        return raw, False
    added = None if row is None else _answer_for(row, form, source)
    if row is None or added is None:
        return raw, False
    key, value = added
    changed: Any = {**row, key: value}
    return dataclasses.replace(
        raw, data=json.dumps(changed).encode() if isinstance(raw.data, bytes) else changed
    ), True


def _answer_for(row: dict[str, Any], form: str, source: Source) -> tuple[str, Any] | None:
    """The column that lacks an answer, with one; None: there is one, or none is read."""
    if form in _ANSWERS:
        key = source.columns.get(_ANSWERS[form], _ANSWERS[form])
        return (key, "-") if row.get(key) in (None, "") else None
    if form not in _LISTS:
        return None
    key, answer = _LISTS[form]
    key = source.columns.get(key, key)
    turns = row.get(key)
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return None
    speaker = source.columns.get(next(iter(answer)), next(iter(answer)))
    if turns[-1].get(speaker) in _SPEAKERS_OF_ANSWERS:
        return None
    renamed = {source.columns.get(name, name): value for name, value in answer.items()}
    return key, [*turns, renamed]
