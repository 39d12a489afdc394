"""A tokenizer with new control tokens: explicit ids, found by every process, in no message."""

import json

import pytest
from transformers import AutoTokenizer

from jaxsft.convert import new_tokenizer
from jaxsft.errors import ConversionError

NEW = ["<|plan|>", "<|/plan|>"]


@pytest.fixture
def directory(tmp_path, save_tokenizer):
    save_tokenizer(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not for the cache")
    return tmp_path / "model"


def test_ids_are_those_after_the_last_one(directory, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = new_tokenizer.new_ids(directory, NEW)
    first = len(tokenizer)
    assert ids == {NEW[0]: first, NEW[1]: first + 1}
    out = new_tokenizer.cached(directory, NEW, tmp_path / "cache")
    extended = AutoTokenizer.from_pretrained(out)
    text = "a<|plan|>b<|/plan|><|im_end|>"
    assert extended(text).input_ids[1] == first and extended(text).input_ids[-2] == first + 1
    assert extended.decode(extended(text).input_ids, skip_special_tokens=True) == "ab"
    assert extended("it's 1999").input_ids == tokenizer("it's 1999").input_ids
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (directory / name).read_bytes()
    assert not (out / "model.safetensors").exists()


def test_the_list_of_added_tokens_grows_where_there_is_one(directory, tmp_path, edit_json):
    edit_json(directory / "tokenizer_config.json", added_tokens_decoder={})
    ids = new_tokenizer.new_ids(directory, NEW)
    out = new_tokenizer.cached(directory, NEW, tmp_path / "cache")
    listed = json.loads((out / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {entry["content"]: int(index) for index, entry in listed.items()} == ids
    assert all(entry["special"] for entry in listed.values())
    assert AutoTokenizer.from_pretrained(out).convert_tokens_to_ids(NEW) == list(ids.values())


def test_a_unigram_tokenizer_has_ids_too(directory, tmp_path, edit_json):
    vocab = [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    edit_json(
        directory / "tokenizer.json", model=model, added_tokens=[], pre_tokenizer=None, decoder=None
    )
    assert new_tokenizer.new_ids(directory, NEW) == {NEW[0]: 3, NEW[1]: 4}
    new_tokenizer.cached(directory, NEW, tmp_path / "cache")


def test_another_tokenizer_or_token_is_another_directory(directory, tmp_path):
    def name(tokens):
        return new_tokenizer.cached(directory, tokens, tmp_path / "cache").name

    first = name(NEW)
    assert name(NEW) == first and name(NEW[::-1]) != first
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    assert name(NEW) != first


@pytest.mark.parametrize(
    ("token", "message"),
    [("<think>", "'<think>' is a token already, id 3"), ("a", "'a' is a token already")],
)
def test_tokens_that_are_there_are_refused(token, message, directory):
    with pytest.raises(ConversionError, match=f"{message}.*leave it out of config.model.new_tok"):
        new_tokenizer.new_ids(directory, [NEW[0], token])


def test_a_tokenizer_of_another_form_is_refused(directory):
    (directory / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match=r"no tokenizer.json to add \['<\|plan\|>'"):
        new_tokenizer.new_ids(directory, NEW)


def test_ids_with_holes_are_refused(directory, tmp_path, edit_json):
    """The library would give the new token another id than the file says."""
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    model["vocab"][max(model["vocab"], key=model["vocab"].get)] += 5
    edit_json(directory / "tokenizer.json", model=model)
    with pytest.raises(ConversionError, match=r"'<\|plan\|>' can't have id \d+: .* holes"):
        new_tokenizer.cached(directory, NEW, tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


def test_a_broken_tokenizer_is_one_message(directory, tmp_path, edit_json):
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    edit_json(directory / "tokenizer.json", model=model | {"merges": [["q", "Q"]]})
    with pytest.raises(ConversionError, match=r"'<\|plan\|>'.* the tokenizer is broken: .*qQ"):
        new_tokenizer.cached(directory, NEW, tmp_path / "cache")
