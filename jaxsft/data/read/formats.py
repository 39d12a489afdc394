"""The common forms of a training row, each read as the conversation that it stands for.

Where a row has the keys of several, the first of FORMATS wins: a conversation says more than the
text or the tokens that were once made of it.
"""

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from jaxsft.data.conversation import (
    BadRow,
    Columns,
    Conversation,
    LeftOut,
    PlainText,
    RawRow,
    Record,
    RowError,
)
from jaxsft.data.read import teacher_rows, tokenized
from jaxsft.data.read.columns import left_out, unread_of
from jaxsft.data.read.dialogs import messages_of, template_options
from jaxsft.data.read.messages import REASONING_KEYS
from jaxsft.data.read.strict_json import (
    clip,
    parse_object,
    refuse_characters,
    refuse_values,
    too_long,
)
from jaxsft.data.read.tool_calls import check_required, parse_tools, required_of
from jaxsft.data.read.weights import NUMBER_KEYS, SWITCH_KEYS
from jaxsft.errors import DataError


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of a format: of its rows, and of the messages in them."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    of_message: tuple[str, ...] = ()

    @property
    def of_row(self) -> tuple[str, ...]:
        return self.required + self.optional


_BESIDE = ("system", "tools", "functions", "chat_template_kwargs")  # any conversation
_CALLS = ("tool_calls", "tool_call_id", "name")
_MESSAGE = ("role", "content", *_CALLS, *REASONING_KEYS, *NUMBER_KEYS, *SWITCH_KEYS)
_SHAREGPT = ("from", "value", *REASONING_KEYS, *NUMBER_KEYS, *SWITCH_KEYS)
_TOKENS = (*tokenized.WEIGHTS, *teacher_rows.KEYS, "attention_mask", "position_ids")
FORMATS = {
    "messages": Keys(("messages",), _BESIDE, _MESSAGE),
    "sharegpt": Keys(("conversations",), _BESIDE, _SHAREGPT),
    "alpaca": Keys(("instruction", "output"), ("input", "history", *_BESIDE)),
    "prompt_completion": Keys(("prompt", "completion"), _BESIDE, _MESSAGE),
    "question_answer": Keys(("question", "answer"), _BESIDE),
    "tokenized": Keys(("input_ids",), _TOKENS),
    "text": Keys(("text",)),
}


_SHOWN_KEYS = 20


class FormatError(DataError):
    """No format fits, or `columns` doesn't fit the format."""


def detect(keys: Collection[str], columns: Mapping[str, str]) -> str:
    """The first format that knows all keys of `columns` and whose required keys a row has.

    Raises:
        FormatError: listing the row's keys and what each format needs.
    """
    for form, wanted in FORMATS.items():
        knows = set(columns) <= {*wanted.of_row, *wanted.of_message}
        if knows and all(columns.get(key, key) in keys for key in wanted.required):
            return form
    needs = [f"  {form}: {', '.join(wanted.required)}" for form, wanted in FORMATS.items()]
    known = {key for wanted in FORMATS.values() for key in wanted.of_row + wanted.of_message}
    hints = [_did_you_mean(key, known) for key in columns if key not in known]
    renamed = f" and columns={dict(columns)}{''.join(hints)}" if columns else ""
    raise FormatError(
        f"format='auto' finds no format: the first row has the keys {_keys(keys)}{renamed}; "
        "the formats and what they need:\n" + "\n".join(needs) + "\n"
        "or rename keys, such as columns={'prompt': 'query', 'completion': 'response'}"
        + _of_preferences(keys)
    )


def _of_preferences(keys: Collection[str]) -> str:
    """How rows of "chosen" and "rejected" are trained on the better answer alone."""
    if "chosen" not in keys or "rejected" not in keys:
        return ""
    mine = "{'completion': 'chosen'}" if "prompt" in keys else "{'messages': 'chosen'}"
    said = "\nthese rows compare answers; to train on the chosen ones alone: "
    return f"{said}columns={mine}, ignore=('rejected',)"


def check_columns(form: str, columns: Mapping[str, str]) -> None:
    """Returns where the format has every key that `columns` maps.

    Raises:
        FormatError: `columns` maps a key that the format doesn't have.
    """
    known = FORMATS[form].of_row + FORMATS[form].of_message
    for key in columns:
        if key not in known:
            raise FormatError(
                f"columns={dict(columns)}: format {form!r} has no key {key!r}"
                f"{_did_you_mean(key, known)}; its keys are {', '.join(known)}"
            )


def record_of(
    raw: RawRow, form: str, columns: Mapping[str, str], ignored: Collection[str] = ()
) -> Record:
    """The row as a record; a defect becomes a BadRow.

    Args:
        ignored: columns that are left out, whatever they mean.
    """
    try:
        row = {key: value for key, value in _value_of(raw).items() if key not in ignored}
        taken = {key: theirs for key, theirs in columns.items() if key in FORMATS[form].of_row}
        others = {key: row[key] for key in _replaced(taken) if key in row}
        row, read = _renamed(row, form, taken), FORMATS[form].of_row
        if reason := left_out(row, read):
            return LeftOut(raw.file, raw.row, reason)
        unread = (*unread_of(others, ()), *unread_of(row, read))
        for key in FORMATS[form].required:
            if key not in row:
                _fail_missing(key, row, form)
        if isinstance(raw.data, dict) and form != "tokenized":
            row = _from_arrow(row, form)
        if form == "text":
            return PlainText(_string(row, "text"), raw.file, raw.row, unread)
        if form == "tokenized":
            return dataclasses.replace(tokenized.tokenized(row, raw.file, raw.row), unread=unread)
        return _conversation(row, form, columns, raw, unread)
    except RowError as error:
        return BadRow(raw.file, raw.row, error.kind, str(error))


def _value_of(raw: RawRow) -> dict[str, Any]:
    if raw.data is None:
        raise too_long()
    if isinstance(raw.data, bytes):
        return parse_object(raw.data)
    return raw.data


def _replaced(taken: Mapping[str, str]) -> Iterator[str]:
    """The format's keys that are read from another column, while that of their name is not."""
    return (key for key in taken if key not in taken.values())


def _renamed(row: dict[str, Any], form: str, taken: Mapping[str, str]) -> dict[str, Any]:
    """The row under the format's own keys; one whose value is null counts as missing."""
    result = {key: value for key, value in row.items() if key not in taken.values()}
    for key, theirs in taken.items():
        if theirs not in row:
            detail = f"has no column {theirs!r}, which columns maps to {key!r}"
            hint = _did_you_mean(theirs, row) or f"; its keys are {_keys(row)}"
            raise RowError("missing key", f"{detail}{hint}; a null counts as having none")
        result[key] = row[theirs]
    return {key: value for key, value in result.items() if value is not None}


def _from_arrow(row: dict[str, Any], form: str) -> dict[str, Any]:
    """The format's keys of a row of Arrow, checked as JSON text would be."""
    row = {key: _without_nulls(row[key]) for key in FORMATS[form].of_row if key in row}
    refuse_values(row)
    refuse_characters(row)
    return row


def _without_nulls(value: Any) -> Any:
    """The value without the keys that are null.

    Arrow gives each object the keys of all the others: {"a": 1} and {"b": 2} come back as
    {"a": 1, "b": None} and {"a": None, "b": 2}.
    """
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _fail_missing(key: str, row: dict[str, Any], form: str) -> NoReturn:
    hint = _did_you_mean(key, row)
    raise RowError(
        "missing key",
        f"has no {key!r}, which format {form!r} needs; its keys are {_keys(row)}{hint}",
    )


def _keys(row: Collection[str]) -> str:
    """The first of them, for a message."""
    shown = sorted(row)[:_SHOWN_KEYS]
    more = f" and {len(row) - len(shown)} more" if len(row) > len(shown) else ""
    return f"[{', '.join(map(clip, shown))}]{more}"


def _did_you_mean(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _string(row: dict[str, Any], key: str) -> str:
    if not isinstance(row[key], str):
        raise RowError("not a string", f"{key} is {clip(row[key])}; expected a string")
    return row[key]


def _conversation(
    row: dict[str, Any], form: str, columns: Mapping[str, str], raw: RawRow, unread: Columns
) -> Conversation:
    names = {key: theirs for key, theirs in columns.items() if key in FORMATS[form].of_message}
    messages = messages_of(row, form, names)
    if "tools" in row and "functions" in row:
        raise RowError("bad tools", "has both 'tools' and 'functions'; keep 'tools'")
    tools = parse_tools(row.get("tools", row.get("functions")))
    required = required_of(tools)
    for index, message in enumerate(messages):
        check_required(message.tool_calls, required, f"messages[{index}]")
    options = template_options(row.get("chat_template_kwargs"))
    return Conversation(messages, tools, raw.file, raw.row, options, unread)
