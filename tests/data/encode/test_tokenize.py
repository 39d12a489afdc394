"""Ids are transformers' own for harmless text, and nothing in a message becomes control."""

import dataclasses
import datetime
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxsft.data.conversation import Conversation, Message, PlainText, RowError, Tokenized
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.render.template import message_dict
from jaxsft.errors import ConversionError, DataError
from tests.data.chat import CHATML, conversation, make_tokenizer
from tests.data.made_tokenizers import make_sentencepiece

HARMLESS = st.text(alphabet="ab 2+\n\t.é🙂你", max_size=30)
CONTROL_TEXT = ("<|im_start|>", "<|im_end|>", "<|pad|>", "<|im", "[END]", "<think>", "</think>")


@pytest.fixture(scope="session")
def reference(tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_dir)


def supervised_text(tokenizer, example):
    return [tokenizer.decode(example.ids[a:b]) for a, b in example.spans]


def prompt_of(reference, messages):
    """The ids that a server makes of a conversation."""
    return reference.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=False
    )


@given(contents=st.lists(HARMLESS, min_size=2, max_size=4))
@example(contents=[" leading", "\n\nlines", "   three spaces   ", "\n"])
def test_the_ids_of_every_turn_begin_with_those_of_its_prompt(tokenizer, reference, contents):
    """M6: the ids are apply_chat_template's, but for a cut where a prompt ends inside a token."""
    talk = conversation(*contents)
    messages = [message_dict(message) for message in talk.messages]
    examples = tokenizer.encode(talk)
    turns = sorted(turn for example in examples for turn in example.turns)
    assert turns == [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for ours in examples:
        for turn, (start, stop) in zip(ours.turns, ours.spans, strict=True):
            prompt = prompt_of(reference, messages[:turn])
            assert ours.ids[:start].tolist() == prompt == tokenizer.encode_prompt(messages[:turn])
            said = messages[turn]["content"] + "<|im_end|>"
            assert tokenizer.decode(ours.ids[start:stop]) == said
        until = ours.turns[-1] + 1 if ours.is_split else len(messages)
        theirs = reference.apply_chat_template(messages[:until], tokenize=False)
        assert tokenizer.decode(ours.ids) == theirs
        if not any(content.startswith("\n") for content in contents):
            whole = reference.apply_chat_template(messages[:until], return_dict=False)
            assert ours.ids.tolist() == whole and not ours.is_split


@given(contents=st.lists(HARMLESS, min_size=2, max_size=4))
def test_the_trained_tokens_spell_the_answers_and_their_end(tokenizer, contents):
    """M2, M5: exactly the content and the end-of-turn token, each with weight 1."""
    talk = conversation(*contents)
    for ours in tokenizer.encode(talk):
        found = supervised_text(tokenizer, ours)
        assert found == [talk.messages[turn].content + "<|im_end|>" for turn in ours.turns]
        assert ours.boundary_tokens == 0
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


def test_a_token_across_the_start_of_a_span_is_cut(tokenizer):
    """The corpus has " user" as one token, but a server's prompt ends with the space."""
    source = CHATML.replace("assistant\\n", "assistant ").replace("+ '\\n' +", "+ ' ' +")
    chat = make_like(tokenizer, source)
    assert len(tokenizer._backend.encode(" user").ids) == 1
    (ours,) = chat.encode(conversation("q", "user"))
    assert supervised_text(chat, ours) == ["user<|im_end|>"] and ours.boundary_tokens == 0
    assert not ours.is_split
    prompt = chat.encode_prompt(conversation("q").messages)
    assert ours.ids[: len(prompt)].tolist() == prompt and ours.spans[0][0] == len(prompt)
    # In the prompt of a second turn nothing is cut: each turn has an example of its own.
    talk = conversation("q", "user", "q", "1", "q", "user")
    examples = chat.encode(talk)
    assert [(e.turns, e.is_split) for e in examples] == [((3,), False), ((1,), True), ((5,), True)]
    for own in examples:
        (turn,), ((start, _),) = own.turns, own.spans
        assert own.ids[:start].tolist() == chat.encode_prompt(talk.messages[:turn])


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
    assert tokenizer.decode(ours.ids) == "hello world<|im_end|>"
    assert ours.weights.tolist() == [0.0] + [1.0] * (len(ours.ids) - 1)
    assert ours.spans == ((1, len(ours.ids)),)
    assert ours.end_of_turn_ids == {tokenizer.eos_id} == ours.control_ids


def test_plain_text_has_one_eos_and_the_bos_of_its_tokenizer(tokenizer, tmp_path):
    """M9. A row of text is all that the model sees: control tokens that it spells are such."""
    ended = tokenizer.encode(PlainText("hello world<|im_end|>", "f", 1))
    assert (
        ended[0].ids.tolist() == tokenizer.encode(PlainText("hello world", "f", 1))[0].ids.tolist()
    )
    for token in ("<|pad|>", "<|im_start|>", "<think>"):  # before and after EOS in the vocabulary
        (ours,) = tokenizer.encode(PlainText(f"hello{token}", "f", 1))
        assert tokenizer.decode(ours.ids) == f"hello{token}<|im_end|>"
    chat = ChatTokenizer(make_sentencepiece(tmp_path / "bos", "LlamaTokenizer"))
    (ours,) = chat.encode(PlainText("hello world", "f", 1))
    assert ours.ids.tolist().count(chat.bos_id) == 1 and ours.ids[0] == chat.bos_id
    assert ours.ids.tolist().count(chat.eos_id) == 1 and ours.ids[-1] == chat.eos_id
    with pytest.raises(RowError, match="begins with '<s>' twice"):
        chat.encode(PlainText("<s>hello world", "f", 1))


def test_plain_text_of_a_tokenizer_without_eos_ends_as_it_is(tmp_path):
    directory = make_tokenizer(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"eos_token": "<|im_end|>", ', ""))
    chat = ChatTokenizer(directory)
    (ours,) = chat.encode(PlainText("hello world", "f", 1))
    assert chat.eos_id is None and chat.decode(ours.ids) == "hello world"
    assert ours.end_of_turn_ids == frozenset()
    (empty,) = chat.encode(PlainText("", "f", 1))
    assert empty.ids.tolist() == [] and empty.spans == ()


def test_control_ids_are_those_that_the_template_writes(tokenizer):
    """Whose rows in the embedding must be alive."""
    (ours,) = tokenizer.encode(conversation("<|pad|>", "<think>"))
    names = {token for token, i in tokenizer.control_tokens.items() if i in ours.control_ids}
    assert names == {"<|im_start|>", "<|im_end|>"}
    assert "   " not in tokenizer.control_tokens
    ids = np.array([5, tokenizer.control_tokens["<think>"], 6], np.int32)
    (adopted,) = tokenizer.encode(Tokenized(ids, np.array([0, 1, 1], np.float32), "f", 1))
    assert adopted.control_ids == {ids[1]}


def test_template_options_and_date_reach_the_template(tokenizer_dir, tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text("{{ mood }} {{ strftime_now('%Y-%m-%d') }}" + CHATML)
    day = datetime.date(2024, 2, 29)
    chat = ChatTokenizer(tokenizer_dir, str(path), template_options={"mood": "calm"}, today=day)
    (ours,) = chat.encode(conversation("q", "a"))
    assert chat.decode(ours.ids).startswith("calm 2024-02-29<|im_start|>")
    messages = [{"role": "user", "content": "q"}]
    assert chat.decode(chat.encode_prompt(messages)).startswith("calm 2024-02-29<|im_start|>")
    prompt = chat.encode_prompt(messages, template_options={"mood": "wild"})
    assert chat.decode(prompt).startswith("wild 2024-02-29<|im_start|>")


def test_rows_that_cannot_be_encoded_say_why(tokenizer):
    with pytest.raises(RowError, match=r"private-use character U\+100003"):
        tokenizer.encode(conversation("q", "a\U00100003"))
    top = tokenizer.vocab_size - 1
    with pytest.raises(RowError, match="vocab_size=50") as raised:
        tokenizer.encode(conversation("q", "a"), vocab_size=50)
    assert str(top) not in str(raised.value)
    tokenizer.encode(conversation("q", "a"), vocab_size=tokenizer.vocab_size)
    assert tokenizer.token_text(top) and not tokenizer.token_text(top + 1)


def test_two_bos_tokens_are_an_error(tokenizer):
    """M9."""
    chat = make_like(tokenizer, "{{ '<|im_start|>' }}" + CHATML)
    chat.bos_id = tokenizer._backend.token_to_id("<|im_start|>")
    with pytest.raises(RowError, match=r"begins with '<\|im_start\|>' twice"):
        chat.encode(conversation("q", "a"))


def test_one_bos_token_alone_is_none_too_many(tmp_path):
    chat = ChatTokenizer(make_sentencepiece(tmp_path, "LlamaTokenizer"))
    one, two = (
        Tokenized(np.full(n, chat.bos_id, np.int32), np.zeros(n, np.float32), "f", 1)
        for n in (1, 2)
    )
    assert chat.encode(one)[0].ids.tolist() == [chat.bos_id]
    with pytest.raises(RowError, match="begins with '<s>' twice"):
        chat.encode(two)


def test_a_directory_or_template_that_is_not_there_is_named(tokenizer_dir, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such tokenizer directory"):
        ChatTokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(ConversionError, match="the tokenizer .* can't be read"):
        ChatTokenizer(str(tmp_path))
    with pytest.raises(DataError, match="data.template=absent.jinja: can't be read"):
        ChatTokenizer(tokenizer_dir, "absent.jinja")
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "CanineTokenizer"}')
    with pytest.raises(DataError, match="CanineTokenizer has no tokenizer.json form"):
        ChatTokenizer(str(tmp_path))


def test_a_file_that_makes_the_library_panic_is_one_that_cannot_be_read(tmp_path):
    """A panic of Rust comes as no Exception."""
    make_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    description = json.loads(file.read_text())
    description["model"]["continuing_subword_prefix"] = "a" * 15  # longer than what is merged
    file.write_text(json.dumps(description))
    with pytest.raises(ConversionError, match="can't be read: range end index"):
        ChatTokenizer(str(tmp_path))


def test_no_code_of_a_tokenizers_directory_is_run(tmp_path):
    directory, mark = make_tokenizer(tmp_path / "own"), tmp_path / "ran"
    config = tmp_path / "own" / "tokenizer_config.json"
    named = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    own = "import pathlib\nfrom transformers import PreTrainedTokenizerFast\n"
    own += f"pathlib.Path({str(mark)!r}).touch()\nclass Own(PreTrainedTokenizerFast): pass\n"
    (tmp_path / "own" / "own.py").write_text(own)
    with pytest.raises(ConversionError, match="can't be read: .*custom code"):
        ChatTokenizer(directory)
    assert not mark.exists()


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
