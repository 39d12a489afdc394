"""Words from memory have the ids and places that the tokenizer gives."""

import itertools
import json
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from jaxsft.data.encode import word_memory
from jaxsft.data.encode.word_memory import Words, words_of

TEXT = "It's the cat's 1,234 apples... WE'LL see  what\n\n 'tis (not) worth: 3.14!\r\n\tEND " * 9
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(expression):
    return pre_tokenizers.Split(Regex(expression), "isolated")


KINDS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm2": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama3": pre_tokenizers.Sequence([split(LLAMA_3), BYTES]),
    "o200k": pre_tokenizers.Sequence([split(O200K), BYTES]),
    "deepseek": pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split(LLAMA_3), BYTES]),
}


def made(pre_tokenizer, text=TEXT):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def open_words(tokenizer) -> Words | None:
    return words_of(json.loads(tokenizer.to_str()), lambda text: tokenizer.encode(text))


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    tokenizer = made(KINDS[request.param])
    words = open_words(tokenizer)
    assert words is not None, request.param
    return words, tokenizer


ATOMS = st.sampled_from(
    [*"aZ09 .,!'\n\r\t-/(éÉß“’—×", "'s", "'LL", "  ", "\n\n", " the", "apples", "12"]
)


@given(text=st.lists(ATOMS, max_size=40).map("".join) | st.text(max_size=20))
def test_ids_and_places_are_the_tokenizers(pair, text):
    words, tokenizer = pair
    ours, theirs = words.encode(text), tokenizer.encode(text)
    if ours is None:
        return
    ids, lengths = ours
    assert ids == theirs.ids
    stops = [0, *itertools.accumulate(lengths)]
    assert list(itertools.pairwise(stops)) == theirs.offsets


def test_real_text_goes_the_fast_way(pair):
    words, _ = pair
    assert words.encode(TEXT) is not None
    assert words.encode(TEXT + "ж") is None and words.encode("a\x0b") is None
    assert words.encode("")[0] == []


def test_memory_is_bounded(monkeypatch):
    """By bytes: of one text with ever new words, of many texts, and of words without an end."""
    tokenizer = made(KINDS["gpt2"])
    words = open_words(tokenizer)
    texts = [f"a{n} {n} (x{n})" for n in range(0, 900, 3)]
    texts = [*texts, " ".join(texts), "ab" * 20_000 + " ab"]
    texts += [f"{'x' * n} b" for n in range(0, 400, 2)]
    for limit in (20_000, 0):
        most = 0
        words._ids.clear()
        words._lengths.clear()
        words._texts.clear()
        words._num_bytes = 0
        monkeypatch.setattr("jaxsft.data.encode.word_memory._MAX_BYTES", limit)
        for text in texts:
            assert words.encode(text)[0] == tokenizer.encode(text).ids
            kept = sum(
                sys.getsizeof(word) + sys.getsizeof(ids) + sys.getsizeof(words._lengths[word])
                for word, ids in words._ids.items()
            )
            assert kept <= limit
            most = max(most, kept)
        assert most >= limit / 3  # nor is much of it left unused
        assert bool(words._ids) == bool(limit) and max(map(len, words._ids), default=0) < 200


def asking(tokenizer, asked):
    """The words of the tokenizer, which notes the texts that it is asked for."""
    encode = lambda text: asked.append(text) or tokenizer.encode(text)  # noqa: E731
    words = words_of(json.loads(tokenizer.to_str()), encode)
    assert words is not None
    asked.clear()
    return words


def test_a_word_that_is_cut_again_alone_is_left_to_the_tokenizer():
    """After an x "ab" is one word, which a memory of words can't tell."""
    cutting = pre_tokenizers.Sequence([split(r"(?<=x)ab|\S|\s+"), BYTES])
    tokenizer = made(cutting, "xab " * 50)
    words = open_words(tokenizer)
    assert words is not None and len(tokenizer.encode("xab").ids) == 2
    assert words.encode("xab") is None
    found = words.encode("x ab")
    assert found is not None and found[0] == tokenizer.encode("x ab").ids


def test_each_word_is_asked_for_once(monkeypatch):
    """And each short text is cut once, as long as few are remembered."""
    asked, cut = [], []
    words = asking(made(KINDS["gpt2"]), asked)
    split = words._split
    monkeypatch.setattr(words, "_split", lambda text: cut.append(text) or split(text))
    monkeypatch.setattr(word_memory, "_MAX_TEXTS", 2)
    for text in ("qu quu qu", "quu qu", "qu quu qu", "quu qu"):
        words.encode(text)
    assert asked == ["qu", " quu", " qu", "quu"]
    texts = [text for text in cut if text.count("u") > 2]
    assert texts == ["qu quu qu", "quu qu"]
    words.encode("quu quu")  # the third text: the first two are forgotten
    words.encode("quu qu")
    assert [text for text in cut if text.count("u") > 2][2:] == ["quu quu", "quu qu"]
    for size, times in ((255, 1), (256, 2)):
        cut.clear()
        text = ("qu " * size)[:size]
        assert words.encode(text) == words.encode(text)
        assert cut.count(text) == times


@pytest.mark.parametrize("form, accents", [("NFC", True), ("NFD", False), ("NFKC", False)])
def test_accents_go_the_fast_way_where_the_tokenizer_keeps_them(form, accents):
    said = "caf\u00e9 \u00dc"
    tokenizer = made(KINDS["gpt2"], 9 * (said + " "))
    tokenizer.normalizer = getattr(normalizers, form)()
    words = open_words(tokenizer)
    assert words is not None
    for text, expected in (("cafe", True), (said, accents)):
        found = words.encode(text)
        assert (found is not None) == expected
        assert found is None or found[0] == tokenizer.encode(text).ids


def test_tokenizers_of_other_kinds_are_left_to_themselves():
    lowering, whole, words = made(KINDS["gpt2"]), made(KINDS["gpt2"]), Tokenizer(models.WordLevel())
    lowering.normalizer = normalizers.Lowercase()
    whole.pre_tokenizer = None
    words.pre_tokenizer = KINDS["gpt2"]
    stripping = made(KINDS["gpt2"])
    stripping.add_tokens([AddedToken("\U00100000", lstrip=True)])
    for tokenizer in (lowering, whole, words, stripping, made(BYTES)):
        assert open_words(tokenizer) is None


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\p{L}+"), "removed"), BYTES]),
        pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "isolated"), BYTES]),
        pre_tokenizers.Sequence([split(r"\p{Greek}+|\P{L}"), BYTES]),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(False), BYTES]),
    ],
    ids=["prefix space", "metaspace", "removed", "string", "property", "digits"],
)
def test_other_ways_to_cut_text_are_left_to_the_tokenizer(pre_tokenizer):
    assert open_words(made(pre_tokenizer)) is None


def test_added_tokens_that_ascii_text_can_hold_are_left_to_the_tokenizer():
    tokenizer = made(KINDS["gpt2"])
    tokenizer.add_tokens([AddedToken("\U00100000", special=True)])
    assert open_words(tokenizer) is not None
    tokenizer.add_tokens(["   "])
    assert open_words(tokenizer) is None


def test_dropout_is_left_to_the_tokenizer():
    tokenizer = made(KINDS["gpt2"])
    tokenizer.model.dropout = 0.5
    assert open_words(tokenizer) is None


def test_a_tokenizer_that_does_not_agree_is_found_out():
    tokenizer, other = made(KINDS["gpt2"]), made(KINDS["llama3"])
    description = json.loads(tokenizer.to_str())
    assert words_of(description, lambda text: other.encode(text)) is None


def test_ids_that_depend_on_more_than_the_word_are_found_out():
    """Though every token has its characters."""
    tokenizer = made(KINDS["gpt2"])

    def encode(text):
        found = tokenizer.encode(text)
        ids = [number + len(text) for number in found.ids]
        return types.SimpleNamespace(ids=ids, offsets=found.offsets)

    assert words_of(json.loads(tokenizer.to_str()), encode) is None


def test_real_tokenizers_go_the_fast_way(assets):
    for name in ("smollm2", "qwen3"):
        description = json.loads((assets / "tokenizers" / name / "tokenizer.json").read_text())
        tokenizer = Tokenizer.from_str(json.dumps({**description, "added_tokens": []}))
        words = open_words(tokenizer)
        assert words is not None
        lines = (assets / "gsm8k" / "train.jsonl").read_text().split("\n")[:200]
        quick = [words.encode(line) for line in lines]
        assert sum(found is not None for found in quick) > 190
        for line, found in zip(lines, quick, strict=True):
            assert found is None or found[0] == tokenizer.encode(line).ids
