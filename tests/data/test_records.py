"""Each row of a file is a record or a named defect at its line."""

import json

import pytest

from jaxsft.config import Source
from jaxsft.data.records import (
    BadRow,
    Conversation,
    Message,
    PlainText,
    RowError,
    parse_message,
    read_source,
)
from jaxsft.errors import DataError

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "ho"}


def read(tmp_path, *lines, form="auto"):
    path = tmp_path / "train.jsonl"
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return list(read_source(Source(path=str(path), format=form)))


def test_the_three_formats_are_found_from_the_first_row(tmp_path):
    assert read(tmp_path, {"messages": [USER, ASSISTANT]})[0].messages[1] == Message(
        "assistant", "ho"
    )
    (row,) = read(tmp_path, {"prompt": "hi", "completion": "ho", "dataset": "x"})
    assert [(m.role, m.content) for m in row.messages] == [("user", "hi"), ("assistant", "ho")]
    (row,) = read(tmp_path, {"prompt": [USER], "completion": [ASSISTANT]})
    assert [m.role for m in row.messages] == ["user", "assistant"]
    (row,) = read(tmp_path, {"text": "plain"})
    assert row == PlainText("plain", str(tmp_path / "train.jsonl"), 1)


def test_rows_are_lines_from_one_and_blank_lines_are_no_rows(tmp_path):
    rows = read(tmp_path, {"text": "a"}, b"", {"text": "b"}, b"  ")
    assert [(row.row, row.text) for row in rows] == [(1, "a"), (3, "b")]


def test_message_fields_are_kept(tmp_path):
    message = {**ASSISTANT, "thinking": "hm", "weight": 0.5, "name": "n", "mood": "fine"}
    (row,) = read(tmp_path, {"messages": [USER, message], "tools": '[{"name": "f"}]'})
    assert row.messages[1] == Message("assistant", "ho", "hm", (), "n", 0.5, {"mood": "fine"})
    assert row.tools == ({"name": "f"},)


def test_arguments_as_json_text_are_the_object(tmp_path):
    """D2."""

    def calls(arguments):
        call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return read(tmp_path, {"messages": [USER, message]})[0].messages[1]

    assert calls({"a": [1, "b"]}) == calls('{"a": [1, "b"]}')
    assert calls({}).content == ""


MESSAGES_DEFECTS = [
    (
        {"messages": [USER, {"role": "assitant", "content": ""}]},
        r"messages\[1\] has role 'assitant'",
    ),
    ({"messages": [{"content": "x"}]}, r"messages\[0\] has role None"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, r"role \['user'\]"),
    ({"messages": [{"role": "user", "content": None}, ASSISTANT]}, r"\[0\] has content None"),
    ({"messages": [USER, {"role": "assistant", "content": 4}]}, r"\[1\] has content 4"),
    ({"messages": [USER, {"role": "assistant", "content": ["x"]}]}, r"content \['x'\]"),
    ({"messages": [USER, {"role": "assistant"}]}, "content None"),
    ({"messages": [USER]}, r"\['user'\]; none is assistant"),
    ({"messages": []}, r"messages=\[\]: there is no message"),
    ({"messages": "hi"}, "messages is 'hi'; expected a list"),
    ({"messages": ["hi"]}, r"messages\[0\] is 'hi'; expected an object"),
    ({"message": [USER]}, r"has no 'messages'; its keys are \['message'\]"),
    ({"messages": [USER, {**ASSISTANT, "weight": -1}]}, "weight -1; expected a number of 0"),
    ({"messages": [USER, {**ASSISTANT, "weight": True}]}, "weight True"),
    ({"messages": [USER, {**ASSISTANT, "weight": "1"}]}, "weight '1'"),
    ({"messages": [USER, {**ASSISTANT, "name": 3}]}, "name 3"),
    ({"messages": [USER, {**ASSISTANT, "thinking": 3}]}, "reasoning 3"),
    ({"messages": [USER, {**ASSISTANT, "tool_calls": "f"}]}, "tool_calls 'f'; expected a list"),
    (
        {"messages": [USER, {**ASSISTANT, "tool_calls": [{"name": 1}]}]},
        r"tool_calls\[0\] is {'name': 1}",
    ),
    (
        {"messages": [USER, {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": "{x"}]}]},
        r"tool_calls\[0\]: arguments is not JSON",
    ),
    (
        {"messages": [USER, {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": [1]}]}]},
        r"arguments \[1\]; expected an object",
    ),
    ({"messages": [USER, ASSISTANT], "tools": [3]}, r"tools is \[3\]"),
    (
        {"messages": [USER, ASSISTANT], "tools": '[{"name": "\\ud800"}]'},
        "lone surrogate",
    ),
    (b'{"messages": [', "is not JSON: .* at column 15"),
    (b'\xef\xbb\xbf{"messages": []}', r"byte order mark \(BOM\)"),
    (b'{"messages": "\x00"}', "NUL byte at column 15"),
    (b'{"messages": "\\u0000"}', "NUL character in '.x00'"),
    (b'{"messages": "\\ud800"}', r"lone surrogate .ud800"),
    (b'{"messages": 1, "messages": 2}', "the key 'messages' twice"),
    (b'{"messages": NaN}', "the constant NaN"),
    (b'{"messages": -Infinity}', "the constant -Infinity"),
    (b'{"messages": "\xff"}', "not UTF-8: .* at byte 14"),
    (b"[" * 100_000, "nested too deep"),
    (b"[1]", "is a JSON list; expected an object"),
    (b'{"messages": [{"role": "assistant", "content": "", "weight": 1e999}]}', "weight inf"),
]


@pytest.mark.parametrize("line, match", MESSAGES_DEFECTS)
def test_a_defect_is_named_at_its_line(tmp_path, line, match):
    good, bad = read(tmp_path, {"messages": [USER, ASSISTANT]}, line)
    assert isinstance(good, Conversation)
    assert isinstance(bad, BadRow) and bad.row == 2
    with pytest.raises(DataError, match=match):
        raise DataError(str(bad))
    assert str(bad).startswith(f"{tmp_path}/train.jsonl:2: ")


def test_a_real_pair_of_surrogates_is_a_character(tmp_path):
    assert read(tmp_path, b'{"text": "\\ud83d\\ude42"}')[0].text == "🙂"


def test_a_text_row_needs_a_string(tmp_path):
    bad = read(tmp_path, {"text": 3}, {"txt": "a"}, form="text")
    assert [row.detail for row in bad] == [
        "text is 3; expected a string",
        "has no 'text'; its keys are ['txt']",
    ]


def test_a_long_line_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxsft.data.records.MAX_LINE_BYTES", 100)
    (bad,) = read(tmp_path, {"text": "x" * 200}, form="text")
    assert "line of 212 bytes; at most 100" in bad.detail


def test_missing_empty_and_unknown_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="absent.jsonl: no such file"):
        list(read_source(Source(path=str(tmp_path / "absent.jsonl"))))
    with pytest.raises(DataError, match="train.jsonl: the file is empty"):
        read(tmp_path, b"")
    with pytest.raises(DataError, match=r"format='auto'.* the first row has \['question'\]"):
        read(tmp_path, {"question": "?"})


def test_a_lone_message_is_checked_too():
    with pytest.raises(RowError, match="messages has role 'bot'"):
        parse_message({"role": "bot", "content": ""}, "messages")
