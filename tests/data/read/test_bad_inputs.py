"""What arrives in practice: each defect is told with file, line and reason, and in bounded time.

The cases are those that made other trainers crash, hang, or train on nothing.
"""

import gzip
import json
import re
import tracemalloc

import pyarrow
import pytest

from jaxsft.config import Source
from jaxsft.data.conversation import BadRow, Conversation
from jaxsft.data.read.sources import read_source
from jaxsft.errors import DataError

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "ho"}
GOOD = {"messages": [USER, ASSISTANT]}


def read(tmp_path, *lines, form="auto", name="train.jsonl"):
    path = tmp_path / name
    path.write_bytes(
        b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    )
    return list(read_source(Source(path=str(path), format=form)))


def nested(depth):
    return b'{"messages": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


BAD_LINES = [
    (b'{"messages": [', "is not JSON: Expecting value at column 15"),
    (b'{"messages": "a\tb"}', "is not JSON: Invalid control character at column 16"),
    (b'{"messages": 1} {"messages": 2}', "is not JSON: Extra data at column 17"),
    (b'\xef\xbb\xbf{"messages": []}', r"byte order mark \(BOM\); save it without"),
    (b'{"messages": "\x00"}', "NUL byte at column 15"),
    (b'{"messages": "\\u0000"}', r"NUL character in '\\x00'"),
    (b'{"messages": "\\ud800"}', r"lone surrogate \\ud800 in a string; write whole"),
    (b'{"messages": "say \\udc00"}', r"lone surrogate \\udc00 after 'say '"),
    (b'{"\\ud800": 1}', r"lone surrogate \\ud800"),
    (b'{"messages": 1, "messages": 2}', "the key 'messages' twice in one object"),
    (b'{"messages": [{"role": "user", "role": "system"}]}', "the key 'role' twice"),
    (b'{"messages": NaN}', "the constant NaN, which is not JSON"),
    (b'{"messages": -Infinity}', "the constant -Infinity"),
    (b'{"messages": 1e999}', "the number '1e999', beyond any float"),
    (b'{"messages": ' + b"7" * 5000 + b"}", "integer of thousands of digits; write it as a string"),
    (b'{"messages": "\xff"}', "not UTF-8: .* at byte 14; convert"),
    (json.dumps(GOOD).encode("utf-16-le"), "NUL byte at column 2"),
    (b"[" * 100_000, "nested more than 100 levels deep"),
    (nested(100_000), "nested more than 100 levels deep"),
    (nested(101), "nested more than 100 levels deep"),
    (nested(100), r"messages\[0\] is \[\[\["),
    (b"[1]", "is a JSON list; expected an object"),
    (b"null", "is a JSON NoneType; expected an object"),
]


@pytest.mark.parametrize("line, match", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_and_its_neighbours_are_read(tmp_path, line, match):
    first, bad, last = read(tmp_path, GOOD, line, GOOD)
    assert isinstance(first, Conversation) and isinstance(last, Conversation)
    assert isinstance(bad, BadRow) and str(bad).startswith(f"{tmp_path}/train.jsonl:2: ")
    assert re.search(match, str(bad))


BAD_MESSAGES = [
    ([{"content": "x"}], "unknown role", r"messages\[0\] has role None; expected system"),
    ([USER, {"role": "bot", "content": ""}], "unknown role", r"messages\[1\] has role 'bot'"),
    ([{"role": "user", "content": None}, ASSISTANT], "content not a string", "content None"),
    ([{"role": "user", "content": 4}, ASSISTANT], "content not a string", "content 4"),
    ([{"role": "user", "content": [1]}, ASSISTANT], "content not a string", r"content\[0\] is 1"),
    ([USER], "no assistant message", r"roles \['user'\]; none is assistant to train on"),
    ([], "no messages", r"messages=\[\]: there is no message"),
    (["hi"], "message not an object", r"messages\[0\] is 'hi'; expected an object"),
    ("hi", "messages not a list", "messages is 'hi'; expected a list of messages"),
    ({"role": "user"}, "messages not a list", "messages is {'role': 'user'}"),
    (None, "missing key", r"has no 'messages', which format 'messages' needs; its keys are \[\]"),
]


@pytest.mark.parametrize("messages, kind, match", BAD_MESSAGES)
def test_messages_that_cannot_be_trained_are_counted_by_reason(tmp_path, messages, kind, match):
    _, bad = read(tmp_path, GOOD, {"messages": messages})
    assert isinstance(bad, BadRow) and (bad.row, bad.kind) == (2, kind)
    assert re.search(match, str(bad))


@pytest.mark.parametrize("messages", [[ASSISTANT, USER, ASSISTANT], [USER, USER, ASSISTANT]])
def test_whether_an_order_of_roles_is_right_is_for_the_template_to_say(tmp_path, messages):
    (row,) = read(tmp_path, {"messages": messages})
    assert [message.role for message in row.messages] == [said["role"] for said in messages]


TOKENS = {"input_ids": [1, 9, 40], "labels": [-100, 9, 40]}


@pytest.mark.parametrize(
    "row, match",
    [
        ({"input_ids": [1, -9]}, r"input_ids\[1\]=-9: no token id"),
        ({"input_ids": [1, 2**31]}, r"input_ids\[1\]=2147483648: no token id"),
        ({"input_ids": [1, 2**70]}, "input_ids is .* expected a list of numbers"),
        ({**TOKENS, "labels": [-100, 9, 41]}, r"labels\[2\]=41 but input_ids\[2\]=40; a label is"),
    ],
)
def test_tokens_that_no_vocabulary_has_are_named(tmp_path, row, match):
    _, bad = read(tmp_path, TOKENS, row)
    assert re.search(f"train.jsonl:2: {match}", str(bad))


def test_a_line_of_100_mb_costs_neither_its_memory_nor_the_next_line(tmp_path):
    path = tmp_path / "train.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        file.seek(100 * 2**20)  # a hole: no disk is used
        file.write(b'"}\n{"text": "c"}\n')
    tracemalloc.start()
    try:
        first, bad, last = read_source(Source(path=str(path), format="text"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (first.text, last.text, last.row) == ("a", "c", 3)
    assert bad.kind == "line too long" and "line of more than 16777216 bytes" in bad.detail
    assert peak < 50e6


@pytest.mark.parametrize("suffix, codec", [("gz", "gzip"), ("zst", "zstd")])
def test_a_compressed_file_cut_short_is_an_error_at_its_line(tmp_path, suffix, codec):
    rows = b"".join(b'{"text": "%d %s"}\n' % (i, bytes(f"{i**40}", "ascii")) for i in range(50_000))
    whole = gzip.compress(rows) if codec == "gzip" else pyarrow.compress(rows, codec, asbytes=True)
    for stop in (len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"train.jsonl.{suffix}"
        path.write_bytes(whole[:stop])
        seen = 0
        records = read_source(Source(path=str(path)))
        match = rf"train.jsonl.{suffix}:[1-9]\d*: can't be read .OSError: Truncated"
        with pytest.raises(DataError, match=match):
            for record in records:
                assert not isinstance(record, BadRow)
                seen += 1
        assert seen < 50_000
    path.write_bytes(b"junk, not " + codec.encode())
    with pytest.raises(DataError, match=f"{suffix}:1: begins with b'junk, no', not {codec} as"):
        list(read_source(Source(path=str(path))))


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    with pytest.raises(DataError, match="train.jsonl: the file is empty"):
        read(tmp_path, content)


def test_a_file_without_one_readable_row_reports_each(tmp_path):
    bad = read(tmp_path, b"role,content", b"user,hi")
    assert [str(row) for row in bad] == [
        f"{tmp_path}/train.jsonl:{row}: is not JSON: Expecting value at column 1" for row in (1, 2)
    ]
