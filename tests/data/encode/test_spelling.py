"""Where control tokens stand in a text, and which characters each token stands for."""

import itertools
import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from jaxsft.data.conversation import RowError
from jaxsft.data.encode import spelling as spelling_module
from jaxsft.data.encode.spelling import Encoded, Spelling, _spell
from jaxsft.data.encode.tokenize import _weigh
from jaxsft.data.render.template import Control
from jaxsft.errors import DataError
from tests.data.chat import make_tokenizer
from tests.data.made_tokenizers import make_unigram


def test_the_picture_of_spelling():
    """<s>Hi</s> with its controls spelt as one character each."""
    controls = [Control(0, 3, "<s>"), Control(5, 9, "</s>")]
    spelt, places, place = _spell("<s>Hi</s>", controls, {"<s>": "*", "</s>": "+"})
    assert (spelt, places) == ("*Hi+", [0, 3])
    assert [place(at) for at in (0, 3, 4, 5, 9)] == [0, 1, 2, 3, 4]
    assert [place(at) for at in (1, 7)] == [1, 4]  # inside a control counts as after it


def backend(directory):
    return Tokenizer.from_file(f"{directory}/tokenizer.json")


def test_each_token_has_its_characters(tmp_path):
    """[END] takes the white space after it along, and yet ends where it ends."""
    spelling = Spelling(backend(make_tokenizer(tmp_path)))
    text = "hello\U0001f642<|im_end|>a[END] \n[END]b"
    controls = [Control(6, 16, "<|im_end|>"), Control(17, 22, "[END]"), Control(24, 29, "[END]")]
    encoded = spelling.encode(text, controls)
    assert encoded.is_control.sum() == 3
    tokens = range(len(encoded.ids))
    starts, stops = ([find(token) for token in tokens] for find in (encoded.start, encoded.stop))
    assert starts == sorted(starts) and stops == sorted(stops)
    assert np.array(starts)[encoded.is_control].tolist() == [6, 8, 11]
    assert np.array(stops)[encoded.is_control].tolist() == [7, 9, 12]
    assert all(a < b for a, b in zip(starts, stops, strict=True))


def test_the_picture_of_weights():
    """A token across the border of a range is context, and counted."""

    class Encoding:
        def token_to_chars(self, token):
            return [(0, 3), (3, 5), (5, 9), (9, 10)][token]

    ids, none = np.arange(4, dtype=np.int32), np.zeros(4, bool)
    encoded = Encoded(ids, none, lambda place: place, Encoding().token_to_chars, {})
    for text_range, weights, spans, boundary in (
        ((4, 10, 1.0), [0, 0, 1, 1], ((2, 4),), 1),
        ((3, 10, 0.5), [0, 0.5, 0.5, 0.5], ((1, 4),), 0),
        ((3, 8, 1.0), [0, 1, 0, 0], ((1, 2),), 1),
        ((6, 8, 1.0), [0, 0, 0, 0], (), 1),
        ((0, 5, 1.0), [0, 1, 0, 0], ((1, 2),), 0),  # nothing predicts the first token
        ((5, 5, 1.0), [0, 0, 0, 0], (), 0),
    ):
        found = _weigh(encoded, [text_range])
        assert (found[0].tolist(), found[1], found[2]) == (weights, spans, boundary)


def test_a_token_without_characters_is_no_border():
    """Where a range starts with it, it is trained; before the range it is context."""
    places = [(0, 3), (3, 3), (3, 5)]
    encoded = Encoded(
        np.arange(3, dtype=np.int32), np.zeros(3, bool), lambda at: at, places.__getitem__, {}
    )
    weights, spans, boundary = _weigh(encoded, [(3, 5, 1.0), (2, 3, 1.0)])
    assert (weights.tolist(), spans, boundary) == ([0, 1, 1], ((1, 3),), 1)


def test_words_from_memory_and_the_tokenizer_give_the_same(tmp_path):
    """Between controls, before and after them, and where some of a text must go the long way."""
    description = json.loads(backend(make_tokenizer(tmp_path)).to_str())
    added = [token for token in description["added_tokens"] if token["content"].strip()]
    tokenizer = Tokenizer.from_str(json.dumps(description | {"added_tokens": added}))
    quick, slow = Spelling(tokenizer), Spelling(tokenizer)
    assert quick._words is not None
    slow._words = None
    end, think = "<|im_end|>", "<think>"
    for parts in (
        ["hello  world\n\n it's", end, "the fox", think, end, " 2 + 2 "],
        [think, "hello <think> \u4f60", end],
        ["\u4f60", end, "hello"],
        [end],
        ["hello"],
        [],
    ):
        stops = [0, *itertools.accumulate(map(len, parts))]
        controls = [
            Control(start, start + len(part), part)
            for start, part in zip(stops, parts, strict=False)
            if part in (end, think)
        ]
        text = "".join(parts)
        assert (quick._by_words(text, controls) is None) == ("\u4f60" in text)
        ours, theirs = (each.encode(text, controls) for each in (quick, slow))
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert ours.is_control.tolist() == theirs.is_control.tolist()
        assert int(ours.is_control.sum()) == len(controls)
        tokens = range(len(ours.ids))
        for one, other in ((ours.start, theirs.start), (ours.stop, theirs.stop)):
            assert [one(token) for token in tokens] == [other(token) for token in tokens]


def test_no_piece_of_a_unigram_vocabulary_is_a_control_token(tmp_path):
    """Its vocabulary lists them as pieces with a score, so any text might be cut into them."""
    spelling = Spelling(backend(make_unigram(tmp_path, "")))
    text = "x</s>[INST]<s>y"
    unknown = spelling.added_ids["<unk>"]
    assert unknown not in spelling.encode("<unk><unk>", []).ids
    assert (
        spelling.encode("a\u4f60<unk>", [Control(2, 7, "<unk>")]).ids[-2:].tolist() == [unknown] * 2
    )
    encoded = spelling.encode(text, [])
    assert not encoded.is_control.any() and not spelling.is_control(encoded.ids).any()
    (one,) = spelling.encode(text, [Control(1, 5, "</s>")]).ids[[1]]
    assert one == spelling.added_ids["</s>"]


def test_a_unigram_vocabulary_may_have_no_unknown_token():
    pieces = [(piece, -1.0) for piece in ("a", "<", "/", "s", ">", "</s>", " ")]
    tokenizer = Tokenizer(models.Unigram(pieces))
    tokenizer.add_special_tokens(["</s>"])
    spelling = Spelling(tokenizer)
    assert spelling.encode("a</s>a", []).ids.tolist() == [0, 1, 2, 3, 4, 0]
    assert spelling.encode("a</s>a", [Control(1, 5, "</s>")]).ids.tolist() == [0, 5, 0]


def numbered(*pieces):
    return {piece: number for number, piece in enumerate(pieces)}


def test_no_merges_make_a_control_token(tmp_path):
    """Nor do they join one with what follows it."""
    vocab = numbered("<", "e", ">", "x", "<e", "<e>", "<e>x")
    tokenizer = Tokenizer(models.BPE(vocab, [("<", "e"), ("<e", ">"), ("<e>", "x")]))
    tokenizer.add_special_tokens(["<e>"])
    spelling = Spelling(tokenizer)
    assert spelling.encode("<e>x", []).ids.tolist() == [4, 2, 3]
    assert spelling.encode("<e>x", [Control(0, 3, "<e>")]).ids.tolist() == [5, 3]


def test_no_word_is_a_control_token_but_any_may_be_unknown():
    vocab = numbered("[UNK]", "a", "b", "</s>")
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[UNK]", "</s>"])
    spelling = Spelling(tokenizer)
    assert spelling.encode("a </s> b [UNK] z", []).ids.tolist() == [1, 0, 2, 0, 0]
    ended = spelling.encode("a </s> b", [Control(2, 6, "</s>")])
    assert ended.ids.tolist() == [1, 3, 2] and ended.is_control.tolist() == [False, True, False]
    assert spelling.is_control(np.arange(6)).tolist() == [False, False, False, True, False, False]


def test_the_control_ids_are_those_of_the_added_tokens(tmp_path):
    spelling = Spelling(backend(make_tokenizer(tmp_path)))
    ids = np.arange(max(spelling.added_ids.values()) + 3)
    expected = sorted(spelling.added_ids[token] for token in spelling.controls)
    assert np.flatnonzero(spelling.is_control(ids)).tolist() == expected
    assert "   " in spelling.added_ids and "   " not in spelling.controls


def test_a_control_token_that_text_around_it_hides_is_an_error():
    tokenizer = Tokenizer(models.BPE(numbered("a", "b", " "), []))
    tokenizer.add_special_tokens([AddedToken("[W]", single_word=True)])
    spelling = Spelling(tokenizer)
    assert spelling.encode("a [W] b", [Control(2, 5, "[W]")]).is_control.sum() == 1
    with pytest.raises(RowError, match=r"not all of .*\[W\]'\)\] became tokens"):
        spelling.encode("a[W]b", [Control(1, 4, "[W]")])


def test_added_tokens_that_cannot_be_told_from_text_are_refused(tmp_path, monkeypatch):
    tokenizer = Tokenizer(models.WordPiece(numbered("[UNK]", "a"), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()  # takes private-use characters out of text
    tokenizer.add_tokens([AddedToken("<call>", normalized=True)])
    with pytest.raises(DataError, match="added token '<call>' can't be told from text"):
        Spelling(tokenizer)
    many = backend(make_tokenizer(tmp_path))
    monkeypatch.setattr(spelling_module, "_NUM_SENTINELS", 7)
    assert len(Spelling(many).controls) == 7
    monkeypatch.setattr(spelling_module, "_NUM_SENTINELS", 6)
    with pytest.raises(DataError, match="7 added tokens; at most 6 can be told apart"):
        Spelling(many)


def test_an_id_far_behind_the_others_is_refused_before_tables_are_made():
    """A flipped bit of one id: tables up to it would take gigabytes."""
    vocab = {"a": 0, "b": 2**31}
    backend = Tokenizer(models.BPE(vocab, []))
    with pytest.raises(DataError, match="token 'b' has the id 2147483648, of 2 tokens"):
        Spelling(backend)
