"""One record to one outcome: every option of Data, and why a row gives no example."""

import pickle

import numpy as np
import pytest

from jaxsft.config import Data
from jaxsft.data.conversation import (
    BadRow,
    Conversation,
    LeftOut,
    Message,
    PlainText,
    Tokenized,
)
from jaxsft.data.encode.account import Drop, Tally
from jaxsft.data.encode.outcomes import outcome_of, outcomes_of
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.quality.row_statistics import shard_facts
from tests.data.chat import CHATML, conversation, make_tokenizer


def outcome(tokenizer, record, length=64, vocab_size=None, **options):
    data = Data(train=(), sequence_length=length, **options)
    return outcome_of(tokenizer, record, data, vocab_size)


def tokenized(*ids, weights=None):
    weights = [0.0] + [1.0] * (len(ids) - 1) if weights is None else weights
    return Tokenized(np.array(ids, np.int32), np.array(weights, np.float32), "f", 3)


LONG = {
    "conversation": conversation("q", "hello world " * 40),
    "text": PlainText("hello world " * 40, "train.jsonl", 7),
    "tokens": tokenized(*range(5, 90)),
}


def test_a_bad_row_stays_one(tokenizer):
    bad = BadRow("f", 4, "not JSON", "is not JSON")
    result = outcome(tokenizer, bad)
    assert (result.file, result.row, result.bad, result.reason) == ("f", 4, bad, "not JSON")


def test_a_row_that_leaves_itself_out_is_dropped_without_tokens(tokenizer):
    result = outcome(tokenizer, LeftOut("f", 4, "column 'split'"))
    assert result.dropped == (Drop("left out by column 'split'", "column 'split'", 0),)
    assert (result.file, result.row, result.kept) == ("f", 4, ())


def test_fields_that_the_template_does_not_name_are_unread(tokenizer):
    """The field "sage" stands within the template's "message", which names no such field."""
    fields = {"sage": "fine", "assistant": "named"}
    messages = (Message("user", "q", fields=fields), Message("assistant", "a", fields=fields))
    record = Conversation(messages, None, "f", 1, unread=("id",))
    assert outcome(tokenizer, record).unread == ("id", "messages[].sage")


def test_control_tokens_that_plain_text_spells_are_counted_and_are_no_text(tokenizer):
    """The text is trained as it is; those that the tokenizer adds itself are not the text's."""
    text = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na"
    result = outcome(tokenizer, PlainText(text, "f", 1))
    (example,) = result.kept
    assert example.text_controls == 3 and example.ids[-1] == tokenizer.eos_id
    tally = Tally()
    tally.add(result)
    assert tally.account().text_controls == 3
    hints = [shard_facts([PlainText(t, "f", 1)], [outcome(tokenizer, PlainText(t, "f", 1))]).hints
             for t in (text, "[INST] a [/INST]")]  # fmt: skip
    assert [list(found) for found in hints] == [[], ["role or control text in a message"]]


def test_a_header_that_is_trained_for_want_of_a_prompt_is_counted(tmp_path):
    """No prompt, no header before the answer; but where there is none there is nothing."""
    source = CHATML.replace("{% if add", "{% if false and add")
    tallies = []
    for name, template in (("header", source), ("none", BARE), ("prompt", CHATML)):
        tally = Tally()
        chat = ChatTokenizer(make_tokenizer(tmp_path / name, template))
        tally.add(outcome(chat, conversation("q", "a", "r", "b")))
        tallies.append(tally.account().trained_headers)
        assert tally.account().supervised_turns == 2
    assert tallies == [1, 0, 0]


BARE = (  # as Mistral's: the question ends with what an answer follows
    "{% for m in messages %}{{ '<think>' + m.content + '</think>' if m.role == 'user'"
    " else ' ' + m.content + '<|im_end|>' }}{% endfor %}"
)


def test_the_options_reach_the_tokenizer(tokenizer):
    talk = conversation("q", "a", "q", "b")
    (example,) = outcome(tokenizer, talk, train_on="last_turn").kept
    assert [tokenizer.decode(example.ids[a:b]) for a, b in example.spans] == ["b<|im_end|>"]
    (example,) = outcome(tokenizer, talk, train_parts=("content",)).kept
    assert [tokenizer.decode(example.ids[a:b]) for a, b in example.spans] == ["a", "b"]
    result = outcome(tokenizer, talk, vocab_size=10)
    assert result.reason == "token outside the model" and "vocab_size=10" in result.bad.detail


@pytest.mark.parametrize("kind", LONG)
def test_overlong(tokenizer, kind):
    record, data = LONG[kind], Data(train=(), sequence_length=1000)
    num_tokens = len(outcome_of(tokenizer, record, data, None).kept[0].ids)
    (whole,) = outcome(tokenizer, record, num_tokens, overlong="truncate").kept
    assert (whole.truncated_tokens, whole.truncated_turns) == (0, 0)
    short = num_tokens - 1
    dropped = outcome(tokenizer, record, short)
    assert dropped.reason == f"overlong: more than sequence_length={short} tokens"
    assert dropped.dropped[0].num_tokens == num_tokens
    error = outcome(tokenizer, record, short, overlong="error")
    assert error.reason == "overlong"
    assert error.bad.detail == f"overlong: {num_tokens} tokens > sequence_length={short}"
    cut = outcome(tokenizer, record, short, overlong="truncate")
    if kind == "conversation":
        assert (
            cut.reason
            == f"overlong: the last turn alone has more than sequence_length={short} tokens"
        )
        assert cut.dropped[0].num_tokens == num_tokens
    else:
        name = {"text": "PlainText", "tokens": "Tokenized"}[kind]
        assert cut.reason == "overlong: no turns to leave out"
        assert f"{num_tokens} tokens > sequence_length={short}, and a row of {name}" in str(cut.bad)
        assert str(cut.bad).startswith(f"{record.file}:{record.row}: ")


def test_tokens_of_another_program_keep_their_weights(tokenizer):
    record = tokenized(9, 5, 6, 7, 8, weights=[0, 0, 0.5, 0, 1])
    (example,) = outcome(tokenizer, record).kept
    assert example.ids.tolist() == [9, 5, 6, 7, 8] and example.ids.dtype == np.int32
    assert example.weights.tolist() == [0, 0, 0.5, 0, 1] and example.weights.dtype == np.float32
    assert example.spans == ((2, 3), (4, 5)) and (example.file, example.row) == ("f", 3)
    assert outcome(tokenizer, tokenized(9, 5, weights=[1, 0])).reason == "no supervised token"


def test_tokens_of_another_program_are_checked(tokenizer):
    size = tokenizer.vocab_size
    assert outcome(tokenizer, tokenized(5, size - 1)).kept
    result = outcome(tokenizer, tokenized(5, size))
    assert result.reason == "token outside the model" and f"has id {size}" in result.bad.detail
    assert outcome(tokenizer, tokenized(5, size), vocab_size=size + 1).kept
    assert outcome(tokenizer, tokenized(5, size), vocab_size=size).bad


def test_an_example_without_a_supervised_token_is_dropped(tokenizer):
    messages = (Message("user", "q"), Message("assistant", "a", weight=0.0))
    silent = Conversation(messages, None, "f", 1)
    (whole,) = tokenizer.encode(silent)
    for options in ({}, {"overlong": "truncate"}):
        result = outcome(tokenizer, silent, **options)
        assert result.reason == "no supervised token"
        assert result.dropped[0].num_tokens == len(whole.ids)
    calls = outcome(tokenizer, conversation("q", "a"), train_parts=("tool_calls",))
    assert calls.reason == "no supervised token"


def test_a_shortened_example_may_have_nothing_left_to_train(tokenizer):
    """The one turn that calls a tool is the one that goes; the account still adds up."""
    talk = conversation("q", "a", "q", "b")
    messages = list(talk.messages)
    messages[2] = Message("tool", "result " * 3)
    messages[3:] = [Message("assistant", "so"), Message("user", "q2"), Message("assistant", "b")]
    record = Conversation(tuple(messages), None, "f", 1)
    options = {"train_parts": ("tool_results",), "overlong": "truncate"}
    (whole,) = outcome(tokenizer, record, 200, **options).kept
    result = outcome(tokenizer, record, len(whole.ids) - 1, **options)
    assert result.reason == "no supervised token"
    assert result.dropped[0].num_tokens == len(whole.ids)


def test_outcomes_travel_between_processes(tokenizer):
    records = [conversation("q", "a"), LONG["tokens"], BadRow("f", 1, "k", "d")]
    data = Data(train=(), sequence_length=64)
    made = outcomes_of(tokenizer, records, data, None)
    copies = pickle.loads(pickle.dumps(made))
    assert [copy.reason for copy in copies] == [result.reason for result in made]
    assert np.array_equal(copies[0].kept[0].ids, made[0].kept[0].ids)
    again = outcomes_of(tokenizer, records, data, None)
    assert [o.kept[0].ids.tolist() for o in again if o.kept] == [made[0].kept[0].ids.tolist()]


def test_words_that_spell_a_control_token_are_counted(tokenizer, tmp_path):
    """The report can then point at data.trusted_control_tokens."""
    talk = conversation("<think>", "<think>hm</think>a", "q", "b")
    tally = Tally()
    tally.add(outcome(tokenizer, talk))
    assert tally.account().control_text == 2
    trusting = ChatTokenizer(
        make_tokenizer(tmp_path), trusted_control_tokens=("<think>", "</think>")
    )
    tally = Tally()
    tally.add(outcome(trusting, talk))
    assert tally.account().control_text == 0
