"""The oldest turns go, no more than needed, and the last answer stays whole with its end."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsft.config import Data
from jaxsft.data.conversation import Conversation, Message, RowError
from jaxsft.data.encode.account import Drop, Tally
from jaxsft.data.encode.outcomes import outcome_of
from jaxsft.data.encode.tokenize import ChatTokenizer
from tests.data.chat import CHATML, make_tokenizer

STRICT = (  # as many stock templates do
    "{% if messages[0].role == 'assistant' %}{{ raise_exception('assistant first') }}{% endif %}"
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatTokenizer(make_tokenizer(tmp_path_factory.mktemp("truncate"), STRICT + CHATML))


def conversation(spoken):
    """`spoken` is like "SUAUA": each a message with its own number as content."""
    roles = {"S": "system", "U": "user", "A": "assistant", "T": "tool"}
    messages = tuple(Message(roles[letter], f"{letter}{i}") for i, letter in enumerate(spoken))
    return Conversation(messages, None, "f", 1)


def fitted(chat, record, length, **options):
    data = Data(train=(), sequence_length=length, overlong="truncate", **options)
    return outcome_of(chat, record, data, None)


def texts(chat, outcome):
    return [chat.decode(example.ids) for example in outcome.kept]


def contents(chat, outcome):
    """What is left, like "S0 U3 A4"."""
    parts = texts(chat, outcome)[0].replace("<|im_end|>", "").split("<|im_start|>")
    return " ".join(part.split("\n")[1] for part in parts if part)


def lengths(chat, record, cuts):
    """The length of the conversation that begins, after its system message, at each cut."""
    front = record.messages[0].role == "system"
    return [
        len(chat.encode(dataclasses.replace(record, messages=record.messages[:front] + m))[0].ids)
        for m in (record.messages[cut:] for cut in cuts)
    ]


def test_the_picture(chat):
    """The docstring's conversation at every length."""
    record = conversation("SUAUATAUA")
    whole, second, third = lengths(chat, record, (1, 3, 7))
    assert contents(chat, fitted(chat, record, whole)) == "S0 U1 A2 U3 A4 T5 A6 U7 A8"
    assert contents(chat, fitted(chat, record, whole - 1)) == "S0 U3 A4 T5 A6 U7 A8"
    assert contents(chat, fitted(chat, record, second)) == "S0 U3 A4 T5 A6 U7 A8"
    assert contents(chat, fitted(chat, record, second - 1)) == "S0 U7 A8"
    assert contents(chat, fitted(chat, record, third)) == "S0 U7 A8"
    dropped = fitted(chat, record, third - 1)
    reason = f"overlong: the last turn alone has more than sequence_length={third - 1} tokens"
    what = "messages[7] to messages[8] and 1 system message before them"
    assert dropped.dropped == (Drop(reason, f"{reason} ({what}); {whole} with all turns", whole),)


@pytest.mark.parametrize(
    ("spoken", "front"), [("UA", ""), ("SSUA", " and 2 system messages before them")]
)
def test_a_last_turn_that_is_too_long_is_named_with_what_must_stay(chat, spoken, front):
    dropped = fitted(chat, conversation(spoken), 5).dropped
    first, last = len(spoken) - 2, len(spoken) - 1
    assert f"(messages[{first}] to messages[{last}]{front});" in dropped[0].detail


def test_what_was_left_out_is_counted(chat):
    record = conversation("SUAUATAUA")
    whole, second, _ = lengths(chat, record, (1, 3, 7))
    outcome = fitted(chat, record, whole - 1)
    (example,) = outcome.kept
    assert (example.truncated_tokens, example.truncated_turns) == (whole - second, 1)
    assert example.turns == (4, 6, 8)
    tally = Tally()
    tally.add(outcome)
    tally.add(fitted(chat, record, 5))
    tally.add(fitted(chat, record, whole))
    report = tally.account()
    assert (report.truncated_examples, report.truncated_turns) == (1, 1)
    assert report.tokens.truncated == whole - second
    assert report.tokens.dropped == whole and report.tokens.rendered == 3 * whole


SPOKEN = st.from_regex(r"\AS?(U{1,2}(AT{0,2}){1,2}){1,5}U?\Z").map(str.strip)


@settings(max_examples=60)
@given(spoken=SPOKEN, length=st.integers(10, 120))
def test_as_few_turns_go_as_will_do(chat, spoken, length):
    """Against every cut tried in order, with what follows the last answer and then without it;
    M12: each trained turn has its end."""
    record = conversation(spoken)
    (full,) = chat.encode(record)
    outcome = fitted(chat, record, length)
    front = record.messages[0].role == "system"
    last = max(i for i, m in enumerate(record.messages) if m.role == "assistant")
    starts = [
        i
        for i in range(front, last)
        if record.messages[i].role == "user"
        and (i == front or record.messages[i - 1].role != "user")
    ]

    def fitting(record):
        sizes = lengths(chat, record, starts)
        return [cut for cut, size in zip(starts, sizes, strict=True) if size <= length]

    if len(full.ids) > length and not fitting(record):
        record = dataclasses.replace(record, messages=record.messages[: last + 1])
    fits = fitting(record)
    if not fits:
        assert not outcome.kept and outcome.dropped[0].num_tokens == len(full.ids)
        return
    (example,) = outcome.kept
    messages = record.messages[:front] + record.messages[fits[0] :]
    (expected,) = chat.encode(dataclasses.replace(record, messages=messages))
    assert np.array_equal(example.ids, expected.ids)
    assert np.array_equal(example.weights, expected.weights)
    assert len(example.ids) + example.truncated_tokens == len(full.ids)
    assert len(example.turns) + example.truncated_turns == len(full.turns)
    assert all(example.ids[b - 1] == chat.eos_id for _, b in example.spans)
    assert f"A{last}<|im_end|>" == chat.decode(example.ids[slice(*example.spans[-1])])


def test_the_last_supervised_turn_is_the_one_that_stays(chat):
    """Here the one before the last, which has weight 0; what follows it stays if it fits."""
    record = conversation("UAUAUA")
    messages = list(record.messages)
    messages[5] = dataclasses.replace(messages[5], weight=0.0)
    record = dataclasses.replace(record, messages=tuple(messages))
    (shortest,) = lengths(chat, record, (2,))
    assert contents(chat, fitted(chat, record, shortest)) == "U2 A3 U4 A5"
    assert contents(chat, fitted(chat, record, shortest - 1)) == "U2 A3"


def test_a_long_word_after_the_last_answer_goes_before_the_answer_does(chat):
    record = conversation("UAU")
    long = dataclasses.replace(record.messages[2], content="z" * 200)
    record = dataclasses.replace(record, messages=(*record.messages[:2], long))
    outcome = fitted(chat, record, 60)
    assert contents(chat, outcome) == "U0 A1"
    (example,) = outcome.kept
    assert example.truncated_tokens == len(chat.encode(record)[0].ids) - len(example.ids)
    assert (example.turns, example.truncated_turns) == ((1,), 0)


def test_last_turn_only(chat):
    record = conversation("UAUA")
    (example,) = fitted(chat, record, 25, train_on="last_turn").kept
    assert example.turns == (3,) and example.truncated_turns == 0 and example.truncated_tokens > 0


def test_each_turn_of_a_rewritten_history_is_shortened_by_itself(rewriting):
    record = conversation("UAUAUA")
    messages = tuple(
        dataclasses.replace(m, reasoning="hm") if m.role == "assistant" else m
        for m in record.messages
    )
    record = dataclasses.replace(record, messages=messages)
    full = rewriting.encode(record)
    outcome = fitted(rewriting, record, len(full[1].ids))
    assert [example.turns for example in outcome.kept] == [(1,), (3,), (5,)]
    assert all(example.is_split for example in outcome.kept)
    left_out = [example.truncated_tokens for example in outcome.kept]
    assert left_out == [0, 0, len(full[2].ids) - len(outcome.kept[2].ids)] and left_out[2] > 0
    assert outcome.kept[2].truncated_turns == 0  # they have their own examples
    assert "<think>hm</think>A5<|im_end|>" in texts(rewriting, outcome)[2]
    assert "U0" not in texts(rewriting, outcome)[2] and "U2" in texts(rewriting, outcome)[2]
    tally = Tally()
    tally.add(outcome)
    assert tally.account().tokens.rendered == sum(len(example.ids) for example in full)
    # A turn in the middle ends its own conversation, and is the one that stays in it.
    shorter = fitted(rewriting, record, len(full[1].ids) - 1)
    assert [example.turns for example in shorter.kept] == [(1,), (3,), (5,)]
    (expected,) = rewriting.encode(dataclasses.replace(record, messages=messages[2:4]))
    assert shorter.kept[1].ids.tolist() == expected.ids.tolist()


def test_a_turn_with_an_example_of_its_own_stays_out_of_the_others(tmp_path):
    """The prompt ends in a space, which " user" would join: the first and the last turn are cut."""
    spaced = CHATML.replace("assistant\\n", "assistant ").replace("+ '\\n' +", "+ ' ' +")
    chat = ChatTokenizer(make_tokenizer(tmp_path, spaced))
    said = ("q", "user", "q", "1", "q", "user")
    roles = ("user", "assistant") * 3
    record = Conversation(tuple(map(Message, roles, said)), None, "f", 1)
    joint, *own = chat.encode(record)
    assert (joint.turns, [e.turns for e in own]) == ((3,), [(1,), (5,)])
    shorter, *_ = fitted(chat, record, len(joint.ids) - 1).kept
    (expected, _) = chat.encode(dataclasses.replace(record, messages=record.messages[2:]))
    assert (shorter.turns, shorter.is_split) == ((3,), False)
    assert shorter.ids.tolist() == expected.ids.tolist()


def test_without_a_supervised_turn_nothing_is_shortened(chat):
    record = conversation("UAUA")
    silent = tuple(dataclasses.replace(m, weight=0.0) for m in record.messages)
    outcome = fitted(chat, dataclasses.replace(record, messages=silent), 10)
    assert outcome.reason == "no supervised token"


def test_a_shorter_conversation_that_the_template_refuses_is_a_bad_row(tmp_path):
    source = "{% if messages|length == 2 %}{{ raise_exception('too few of them') }}{% endif %}"
    chat = ChatTokenizer(make_tokenizer(tmp_path, source + CHATML))
    outcome = fitted(chat, conversation("UAUAUA"), 20)
    assert outcome.bad is not None and "too few of them" in outcome.bad.detail
    with pytest.raises(RowError, match="too few of them"):
        chat.encode(conversation("UA"))
