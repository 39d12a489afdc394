"""What a row has beside its text is listed, or is an error where it means something."""

import ast
import datetime
import decimal
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from jaxsft.config import Data, Source
from jaxsft.data.conversation import BadRow, Conversation, LeftOut, RawRow
from jaxsft.data.encode import account
from jaxsft.data.encode.outcomes import outcome_of
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.read import formats
from jaxsft.data.read.sources import read_source
from jaxsft.errors import DataError
from tests.data.chat import CHATML, make_tokenizer

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def record(fields, arrow=False, ignored=(), **row):
    row = (row or {"messages": MESSAGES}) | fields
    data = row if arrow else json.dumps(row).encode()
    form = formats.detect(row, {})
    return formats.record_of(RawRow("f.jsonl", 3, data), form, {}, ignored)


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"images": ["a.png"]}, ["images=['a.png']", "more than its text"]),
        ({"audio": {"path": "a.wav"}}, ["audio="]),
        ({"video_path": "a.mp4"}, ["video_path='a.mp4'"]),
        ({"chosen": "a", "rejected": "b"}, ["chosen='a', rejected='b' (rows that compare"]),
        ({"rejected_response": "b"}, ["rejected_response='b'"]),
        ({"label": True}, ["label=True (rows with a verdict"]),
        ({"kto_tag": False}, ["kto_tag=False"]),
        ({"kto_label": 0}, ["kto_label=0 (rows with a verdict"]),
        ({"label": "rejected"}, ["label='rejected' (rows with a verdict"]),
        ({"advantage": -0.5}, ["advantage=-0.5 (rows of reinforcement learning"]),
        ({"split": "test"}, ["split='test' (the row is kept for evaluation"]),
        ({"data_split": "test_sft"}, ["data_split='test_sft' (the row is kept for evaluation"]),
        ({"is_test": True}, ["is_test=True (the row says"]),
        ({"weight": 0.5}, ["weight=0.5 (a weight of the whole row: give"]),
        ({"train": "no"}, ["train='no' (the row says"]),
        ({"skip": True}, ["skip=True"]),
        ({"trainable": False}, ["trainable=False"]),
        ({"loss_mask": [0, 1]}, ["loss_mask=[0, 1]"]),
        ({"exclude": "yes"}, ["exclude='yes'"]),
        ({"keep": "no"}, ["keep='no'"]),
        ({"isDeleted": True}, ["isDeleted=True"]),
        ({"rejectedResponse": "b"}, ["rejectedResponse='b' (rows that compare"]),
        ({"rejected": True}, ["rejected=True (the row says"]),
        ({"do_not_train": 1}, ["do_not_train=1 (the row says"]),
        ({"sample_weight": "0.5"}, ["sample_weight='0.5' (a weight of the whole row"]),
        ({"image_2": "a.png"}, ["image_2='a.png' (the row is about more than its text"]),
        ({"screenshot": {"bytes": None, "path": "a.png"}}, ["screenshot={", "more than its text"]),
        ({"speech": {"array": [0.5], "sampling_rate": 8000}}, ["speech={", "more than its text"]),
    ],
)
@pytest.mark.parametrize("arrow", [False, True])
def test_a_column_without_which_the_row_means_something_else_is_an_error(fields, named, arrow):
    bad = record(fields, arrow)
    assert isinstance(bad, BadRow), bad
    for said in (*named, f"or train it as if it had none of them: Source.ignore={tuple(fields)}"):
        assert said in bad.detail
    kept = record(fields, arrow, ignored=tuple(fields))
    assert isinstance(kept, Conversation) and kept.unread == ()


@pytest.mark.parametrize(
    "row", [{"prompt": "q", "chosen": "a"}, {"chosen": [*MESSAGES[:1], MESSAGES[1]]}]
)
def test_rows_that_compare_answers_are_trained_on_the_chosen_one_as_the_error_says(row):
    row = {**row, "rejected": "b"}
    with pytest.raises(formats.FormatError, match="these rows compare answers") as raised:
        formats.detect(row, {})
    columns, ignored = re.search(r"columns=({.*?}), ignore=(\(.*?\))", str(raised.value)).groups()
    columns, ignored = ast.literal_eval(columns), ast.literal_eval(ignored)
    left = {key for key in row if key not in ignored}
    raw = RawRow("f", 1, json.dumps(row).encode())
    kept = formats.record_of(raw, formats.detect(left, columns), columns, ignored)
    assert [message.role for message in kept.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    "fields, unread",
    [
        ({"lang": "en", "tree_id": 7}, ["lang", "tree_id"]),
        ({"images": [], "chosen": None, "note": ""}, []),
        ({"label": "sports", "split": "train", "score": 0.5}, ["label", "split", "score"]),
        ({"rewards": [1, 0], "files": ["a.py"]}, ["rewards", "files"]),
        ({"preferred_language": "en", "rejected": False}, ["preferred_language", "rejected"]),
        ({"images": [None], "image": {"bytes": None, "path": ""}, "chosen": [{"role": None}]}, []),
        ({"deleted": "false", "loss": 0.0}, ["deleted", "loss"]),
        ({"weight": 1, "train": True, "skip": False, "loss": 1.5}, ["skip", "loss"]),
        ({"prompt": "hi", "text": "hi ho"}, ["prompt", "text"]),
        ({"tools": [], "system": "", "chat_template_kwargs": {}}, []),
    ],
)
def test_any_other_column_is_named(fields, unread):
    kept = record(fields)
    assert isinstance(kept, Conversation), kept
    assert list(kept.unread) == unread


@pytest.mark.parametrize(
    "form", [{"text": "a"}, {"input_ids": [1, 2]}, {"question": "q", "answer": "a"}]
)
@pytest.mark.parametrize(
    "fields", [{"train": False}, {"loss": False}, {"weight": 0.0}, {"weight": "0"}]
)
def test_a_row_that_says_it_is_not_trained_is_left_out_and_counted(tokenizer, form, fields):
    left_out = record(fields, **form)
    (key,) = fields
    assert left_out == LeftOut("f.jsonl", 3, f"{key}={fields[key]!r} of the row")
    outcome = outcome_of(tokenizer, left_out, None, None)
    tally = account.Tally()
    tally.add(outcome)
    report = tally.account()
    assert report.dropped == {f"left out by {key}={fields[key]!r} of the row": 1}
    assert report.rows_in == 1 and report.tokens.rendered == 0


@pytest.mark.parametrize("value", [0, decimal.Decimal(0)])
def test_a_weight_of_a_table_is_a_number_of_any_type(value):
    assert record({"weight": value}, arrow=True).reason == f"weight={value!r} of the row"


def test_a_column_whose_place_another_takes_is_named_or_an_error():
    """columns={"prompt": "query"} of a row that has a prompt, too."""
    row = {"prompt": "old", "query": "new", "completion": "a", "messages": [], "chosen": "c"}
    raw = RawRow("f", 1, json.dumps(row | {"chosen": None}).encode())
    kept = formats.record_of(raw, "prompt_completion", {"prompt": "query"})
    assert kept.messages[0].content == "new" and kept.unread == ("prompt",)
    raw = RawRow("f", 1, json.dumps(row).encode())
    bad = formats.record_of(raw, "prompt_completion", {"prompt": "query"})
    assert bad.kind == "column not read: chosen"


def test_columns_and_fields_that_nothing_reads_are_counted_by_name(tokenizer, monkeypatch):
    monkeypatch.setattr(account, "MAX_UNREAD", 3)
    options = Data(train=(), sequence_length=100)
    tally, other = account.Tally(), account.Tally()
    # "sage" stands within the template's "message", which names no such field.
    said = [{**MESSAGES[0], "sage": "fine"}, MESSAGES[1]]
    tally.add(outcome_of(tokenizer, record({"id": 1, "messages": said}), options, None))
    tally.add(outcome_of(tokenizer, record({"id": 2, "k" * 90: 1, "more": 1}), options, None))
    other.add(outcome_of(tokenizer, record({"id": 3, "text": "a"}), options, None))
    tally.merge(other)
    long = "k" * 56 + ".."
    assert tally.account().unread_columns == {
        **{"id": 3, "messages[].sage": 1, long: 1, "other columns": 1, "text": 1},
    }


def table(tmp_path, arguments):
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": [said]}]), path)
    return list(read_source(Source(path=str(path))))


@pytest.mark.parametrize(
    "value, match",
    [
        (datetime.datetime(2024, 1, 2), "is datetime.datetime.2024, 1, 2, 0, 0. of type datetime,"),
        (datetime.timedelta(1), r"is .* of type timedelta, which JSON doesn't have: write it as a"),
        (decimal.Decimal("1.5"), r"is Decimal\('1.5'\) of type Decimal"),
        (b"\x00", r"is b'\\x00' of type bytes"),
        (float("nan"), "is nan, which is not JSON"),
        (float("-inf"), "is -inf, which is not JSON"),
    ],
)
def test_a_value_of_a_table_that_json_does_not_have_is_named(tmp_path, value, match):
    (bad,) = table(tmp_path, {"x": [value]})
    assert isinstance(bad, BadRow)
    where = r"messages\[0\].tool_calls\[0\].function.arguments.x\[0\] "
    assert re.search(where + match, bad.detail)


def test_what_json_has_is_the_same_from_a_table(tmp_path):
    (kept,) = table(tmp_path, {"x": [1.5], "y": True, "z": {"a": "b"}})
    (call,) = kept.messages[0].tool_calls
    assert call["function"]["arguments"] == {"x": [1.5], "y": True, "z": {"a": "b"}}


UNREADABLE = [
    pyarrow.array([1], pyarrow.timestamp("ns")),
    pyarrow.array([10**15], pyarrow.timestamp("s")),
    pyarrow.array([[("a", 1), ("a", 2)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
]


@pytest.mark.parametrize("values", UNREADABLE, ids=lambda values: str(values.type))
def test_a_value_that_python_cannot_hold_spoils_only_what_it_stands_in(tmp_path, values):
    path = tmp_path / "t.parquet"
    table = pyarrow.table({"messages": pyarrow.array([MESSAGES]), "x": values})
    pyarrow.parquet.write_table(table, path)
    (kept,) = read_source(Source(path=str(path)))
    assert kept.messages[1].content == "ho" and kept.unread == ("x",)
    (bad,) = read_source(Source(path=str(path), format="text", columns={"text": "x"}))
    assert bad.kind == "not a JSON value" and bad.detail.startswith("text can't be read: ")
    (bad,) = read_source(Source(path=str(path), format="tokenized", columns={"input_ids": "x"}))
    assert bad.kind == "bad tokens"


def test_a_column_twice_is_an_error(tmp_path):
    names, columns = ["text", "text"], [pyarrow.array(["a"]), pyarrow.array(["b"])]
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names), path)
    with pytest.raises(DataError, match="t.parquet:1: has more than one column 'text'; keep one"):
        list(read_source(Source(path=str(path))))


def test_a_map_of_a_table_is_an_object(tmp_path):
    kind = pyarrow.map_(pyarrow.string(), pyarrow.string())
    assert called_with(tmp_path, kind, "q").messages[0].tool_calls[0]["function"] == {
        "name": "f",
        "arguments": {"q": "oslo"},
    }
    bad = called_with(tmp_path, pyarrow.map_(pyarrow.int64(), pyarrow.string()), 1)
    assert "arguments has the key 1 of type int; keys of JSON are strings" in bad.detail


def called_with(tmp_path, kind, key):
    message = {"role": pyarrow.string(), "content": pyarrow.string(), "train": pyarrow.bool_()}
    call = pyarrow.struct({"name": pyarrow.string(), "arguments": kind})
    form = pyarrow.list_(pyarrow.struct({**message, "tool_calls": pyarrow.list_(call)}))
    said = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [(key, "oslo")]}]}
    path = tmp_path / "t.parquet"
    rows = pyarrow.table({"messages": pyarrow.array([[said]], form)})
    pyarrow.parquet.write_table(rows, path)
    (read,) = read_source(Source(path=str(path)))
    return read


@pytest.mark.parametrize("arrow", [False, True])
def test_template_variables_of_a_row_are_any_json_and_null_is_none(arrow):
    options = {"xml_tools": ["a"], "python_tools": [], "custom": None, "deep": {"a": [1]}}
    kept = record({"chat_template_kwargs": options}, arrow)
    assert kept.template_options == {key: options[key] for key in options if key != "custom"}


def test_a_list_reaches_the_template(tmp_path):
    template = "{% for x in xml_tools or [] %}{{ x }};{% endfor %}" + CHATML
    chat = ChatTokenizer(make_tokenizer(tmp_path, template))
    kept = record({"chat_template_kwargs": {"xml_tools": ["one", "two"]}})
    (example,) = chat.encode(kept)
    assert chat.decode(example.ids).startswith("one;two;<|im_start|>user")
    assert [chat.decode(example.ids[a:b]) for a, b in example.spans] == ["ho<|im_end|>"]
