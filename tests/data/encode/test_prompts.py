"""A text that is cut has the ids of its prompt alone, and goes on as after other text."""

import dataclasses
import itertools

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, models, normalizers

from jaxsft.data.conversation import RowError
from jaxsft.data.encode import prompts
from jaxsft.data.encode.prompts import Prompts
from jaxsft.data.encode.spelling import Spelling
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.render.template import Control
from tests.data.made_tokenizers import make_sentencepiece

TEXT = "hello<s>hello world</s> fox says</s>hello"
CONTROLS = [Control(5, 8, "<s>"), Control(19, 23, "</s>"), Control(32, 36, "</s>")]
PLACES = [p for p in range(2, len(TEXT)) if not any(c.start < p < c.stop for c in CONTROLS)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tokenizer that begins a text with a space, and what goes on after other text: sentencepiece
    itself without that."""
    directory = tmp_path_factory.mktemp("llama")
    chat = ChatTokenizer(make_sentencepiece(directory, "LlamaTokenizer"))
    proto = pytest.importorskip("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString((directory / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = False
    return chat, sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def going_on(model, at):
    """The ids of the text from a place on."""
    ids = []
    for control in CONTROLS:
        if control.start >= at:
            ids += [*model.encode(TEXT[at : control.start]), model.piece_to_id(control.token)]
            at = control.stop
    return ids + model.encode(TEXT[at:])


@pytest.mark.parametrize("stop", PLACES)
def test_a_cut_text_is_its_prompt_and_what_goes_on_after_it(llama, stop):
    chat, model = llama
    cut = Prompts(chat._spelling).cut(TEXT, CONTROLS, stop)
    before = [control for control in CONTROLS if control.stop <= stop]
    prompt = chat._spelling.encode(TEXT[:stop], before).ids.tolist()
    assert cut.ids.tolist() == prompt + going_on(model, stop)
    # Each token has its characters, with each control as one of them.
    pieces = [chat.token_text(token).replace("\u2581", " ") for token in cut.ids]
    controls = {control.token for control in CONTROLS}
    assert cut.is_control.tolist() == [piece in controls for piece in pieces]
    sizes = [1 if piece in controls else len(piece) for piece in pieces]
    sizes[0] -= 1  # the space that no text has
    stops = [0, *itertools.accumulate(sizes)]
    tokens = range(len(pieces))
    found = [(cut.start(token), cut.stop(token)) for token in tokens]
    assert found == list(itertools.pairwise(stops))
    spelt = [at - sum(len(c.token) - 1 for c in CONTROLS if c.stop <= at) for at in PLACES]
    assert [cut.place(at) for at in PLACES] == spelt


def test_a_text_begins_with_the_ids_of_its_prompt_or_does_not(llama):
    chat, _ = llama
    encode, whole = chat._spelling.encode, chat._spelling.encode(TEXT, CONTROLS)
    found = []
    for stop in PLACES:
        prompt = encode(TEXT[:stop], [c for c in CONTROLS if c.stop <= stop]).ids.tolist()
        found.append(Prompts(chat._spelling).begins(whole, TEXT, CONTROLS, stop))
        assert found[-1] == (whole.ids[: len(prompt)].tolist() == prompt)
    assert set(found) == {True, False}
    other = dataclasses.replace(whole, ids=np.where(np.arange(len(whole.ids)) == 2, 9, whole.ids))
    assert not Prompts(chat._spelling).begins(other, TEXT, CONTROLS, 19)


def joining(*guards):
    """A tokenizer that begins a text with "_" and joins an "x" to what stands before it."""
    alphabet = ["_", "x", "\n", ".", "a", "0", "b"]
    merges = [(guard, "x") for guard in guards]
    vocab = {piece: i for i, piece in enumerate([*alphabet, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.normalizer = normalizers.Prepend("_")
    return Spelling(tokenizer)


def test_a_text_goes_on_after_whatever_does_not_join_it():
    for guards in ((), ("\n",), ("\n", "."), ("\n", ".", "a")):
        spelling = joining(*guards)
        assert Prompts(spelling).cut("bxb", [], 1).ids.tolist() == [0, 6, 1, 6], guards
    shown = "xbxbxbxbxbxbxbxbxbxb"
    with pytest.raises(RowError, match=f"no border before '{shown}'$"):
        Prompts(joining("\n", ".", "a", "0")).cut("b" + 2 * shown, [], 1)


def test_ends_of_prompts_are_remembered_and_few(llama, monkeypatch):
    chat, _ = llama
    made = Prompts(chat._spelling)
    encode, asked = chat._spelling.encode, []
    monkeypatch.setattr(
        chat._spelling,
        "encode",
        lambda text, controls: asked.append(text) or encode(text, controls),
    )
    monkeypatch.setattr(prompts, "_MAX_ENDS", 3)
    monkeypatch.setattr(prompts, "_SHORT", 8)

    def begins(*texts):
        asked.clear()
        assert all(made.begins(encode(text, []), text, [], len(text)) for text in texts)
        return asked

    assert begins("a", "b", "c") == ["a", "b", "c"] and begins("a", "b", "c") == []
    assert begins("d", "d", "a") == ["d", "a"]
    assert begins("12345678", "12345678", "123456789", "123456789")[1:] == ["123456789"] * 2
