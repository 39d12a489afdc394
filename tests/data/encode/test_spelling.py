"""Where control tokens stand in a text, and which characters each token stands for."""

import numpy as np

from jaxsft.data.encode.spelling import Encoded, Spelling, _spell
from jaxsft.data.encode.tokenize import _weigh
from jaxsft.data.render.template import Control
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
    from tokenizers import Tokenizer

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
