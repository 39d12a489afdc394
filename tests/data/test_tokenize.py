"""Ids are transformers' own for harmless text, and nothing in a message becomes control."""

import dataclasses

import numpy as np
import pytest
from conftest import CHATML, conversation, make_tokenizer
from hypothesis import example, given
from hypothesis import strategies as st

from jaxsft.data.records import Conversation, Message, PlainText, RowError
from jaxsft.data.template import message_dict
from jaxsft.data.tokenize import ChatTokenizer
from jaxsft.errors import DataError

HARMLESS = st.text(alphabet="ab 2+\n\t.é🙂你", max_size=30)
CONTROL_TEXT = ("<|im_start|>", "<|im_end|>", "<|pad|>", "<|im", "[END]", "<think>", "</think>")


@pytest.fixture(scope="session")
def reference(tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_dir)


def supervised_text(tokenizer, example):
    return [tokenizer.decode(example.ids[a:b]) for a, b in example.spans]


@given(contents=st.lists(HARMLESS, min_size=2, max_size=4))
@example(contents=[" leading", "\n\nlines", "   three spaces   ", "\n"])
def test_ids_of_harmless_text_are_those_of_apply_chat_template(tokenizer, reference, contents):
    """M6: one tokenization, so what stands at the start of an answer merges as in serving."""
    talk = conversation(*contents)
    messages = [message_dict(message) for message in talk.messages]
    (ours,) = tokenizer.encode(talk)
    theirs = reference.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert ours.ids.tolist() == theirs
    prompt = reference.apply_chat_template(
        messages[:1], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.encode_prompt(messages[:1]) == prompt


@given(contents=st.lists(HARMLESS, min_size=2, max_size=4))
def test_the_trained_tokens_spell_the_answers_and_their_end(tokenizer, contents):
    """M2, M5: exactly the content and the end-of-turn token, each with weight 1."""
    talk = conversation(*contents)
    (ours,) = tokenizer.encode(talk)
    straddling = ours.boundary_tokens  # "\n\n" across the header's end is one token: context
    expected = [m.content + "<|im_end|>" for m in talk.messages if m.role == "assistant"]
    found = supervised_text(tokenizer, ours)
    if straddling == 0:
        assert found == expected
    assert len(found) == len(expected)
    assert all(whole.endswith(part) for part, whole in zip(found, expected, strict=True))
    assert ours.weights.sum() == sum(b - a for a, b in ours.spans)
    assert all(ours.ids[b - 1] == tokenizer.eos_id for _, b in ours.spans)
    assert ours.end_of_turn_ids == {tokenizer.eos_id}
    assert ours.weights[0] == 0 and ours.ids.dtype == np.int32


@given(st.lists(st.sampled_from([*CONTROL_TEXT, "a", " ", "\n", "start|>"]), max_size=8))
def test_no_message_forges_a_control_token(tokenizer, parts):
    """M11: control ids are those of a harmless conversation, and the text is kept."""
    evil = "".join(parts)
    (harmless,) = tokenizer.encode(conversation("q", "a"))
    (ours,) = tokenizer.encode(conversation(evil, "x" + evil))
    control = {tokenizer._backend.token_to_id(token) for token in CONTROL_TEXT}
    keep = [i for i in ours.ids.tolist() if i in control]
    assert keep == [i for i in harmless.ids.tolist() if i in control]
    assert tokenizer.decode(ours.ids).count(evil) >= 2
    assert supervised_text(tokenizer, ours) == ["x" + evil + "<|im_end|>"]


def test_a_token_across_the_start_of_a_span_is_context(tokenizer):
    """The corpus has " user" as one token: the space is the prompt's, so the token is not ours."""
    source = CHATML.replace("assistant\\n", "assistant ").replace("+ '\\n' +", "+ ' ' +")
    chat = make_like(tokenizer, source)
    (ours,) = chat.encode(conversation("q", "user"))
    assert ours.boundary_tokens == 1
    assert supervised_text(chat, ours) == ["<|im_end|>"]


def make_like(tokenizer, source):
    """The same tokenizer with another template."""
    from pathlib import Path

    path = Path(tokenizer.directory) / "other.jinja"
    path.write_text(source)
    try:
        return ChatTokenizer(tokenizer.directory, str(path))
    finally:
        path.unlink()


def test_an_end_token_that_takes_white_space_along_is_trained(tokenizer):
    """Phi writes <|end|> with rstrip: the newline after it must not unmask it."""
    chat = make_like(tokenizer, CHATML.replace("'<|im_end|>'", "'[END]'"))
    (ours,) = chat.encode(conversation("q", "a"))
    assert ours.ids[ours.spans[0][1] - 1] == tokenizer._backend.token_to_id("[END]")
    assert ours.boundary_tokens == 0


def test_pad_equal_to_eos_changes_nothing(tokenizer, tmp_path):
    """M10."""
    same = ChatTokenizer(make_tokenizer(tmp_path / "same", pad="<|im_end|>"))
    (ours,), (theirs,) = (t.encode(conversation("q", "a")) for t in (tokenizer, same))
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert ours.weights.tolist() == theirs.weights.tolist()


def test_weights_are_those_of_the_messages(tokenizer):
    messages = (Message("user", "q"), Message("assistant", "a", weight=0.5))
    (ours,) = tokenizer.encode(Conversation(messages, None, "f", 1))
    assert set(ours.weights.tolist()) == {0.0, 0.5}


def test_plain_text_is_trained_but_for_its_first_token(tokenizer):
    (ours,) = tokenizer.encode(PlainText("hello world", "f", 1))
    assert tokenizer.decode(ours.ids) == "hello world"
    assert ours.weights.tolist() == [0.0] + [1.0] * (len(ours.ids) - 1)
    assert ours.spans == ((1, len(ours.ids)),)


def test_rows_that_cannot_be_encoded_say_why(tokenizer):
    with pytest.raises(RowError, match=r"private-use character U\+100003"):
        tokenizer.encode(conversation("q", "a\U00100003"))
    top = tokenizer.vocab_size - 1
    with pytest.raises(RowError, match="vocab_size=50") as raised:
        tokenizer.encode(conversation("q", "a"), vocab_size=50)
    assert str(top) not in str(raised.value)
    tokenizer.encode(conversation("q", "a"), vocab_size=tokenizer.vocab_size)


def test_two_bos_tokens_are_an_error(tokenizer):
    """M9."""
    chat = make_like(tokenizer, "{{ '<|im_start|>' }}" + CHATML)
    chat.bos_id = tokenizer._backend.token_to_id("<|im_start|>")
    with pytest.raises(RowError, match=r"begins with '<\|im_start\|>' twice"):
        chat.encode(conversation("q", "a"))


def test_a_directory_or_template_that_is_not_there_is_named(tokenizer_dir, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such tokenizer directory"):
        ChatTokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="the tokenizer can't be read"):
        ChatTokenizer(str(tmp_path))
    with pytest.raises(DataError, match="data.template=absent.jinja: can't be read"):
        ChatTokenizer(tokenizer_dir, "absent.jinja")


def test_a_tokenizer_without_template_encodes_text_only(tmp_path):
    chat = ChatTokenizer(make_tokenizer(tmp_path, template=""))
    assert not chat.has_template
    chat.encode(PlainText("hello", "f", 1))
    with pytest.raises(DataError, match="has no chat template; set data.template"):
        chat.encode(conversation("q", "a"))


def test_split_turns_are_marked(rewriting):
    talk = conversation("q1", "a1", "q2", "a2")
    thinking = tuple(
        dataclasses.replace(m, reasoning="hm") if m.role == "assistant" else m
        for m in talk.messages
    )
    examples = rewriting.encode(dataclasses.replace(talk, messages=thinking))
    assert [e.is_split for e in examples] == [True, True]
    assert [supervised_text(rewriting, e) for e in examples] == [
        ["<think>hm</think>a1<|im_end|>"],
        ["<think>hm</think>a2<|im_end|>"],
    ]
