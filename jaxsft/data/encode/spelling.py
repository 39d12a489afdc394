"""Text to ids with control tokens exactly where they are put, never where the text spells them."""

import bisect
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxsft.data.conversation import RowError
from jaxsft.data.encode.word_memory import words_of
from jaxsft.data.render.template import Control
from jaxsft.errors import DataError, is_of_library

_SENTINEL = 0x100000  # first character of Unicode's last private-use plane
_LAST_ID = 2**24  # the largest vocabularies have 2^18 tokens
_NUM_SENTINELS = 0xFFFD
_UNKNOWN = chr(_SENTINEL + _NUM_SENTINELS)  # the plane's last character
_GUARDS = ("\n", ".", "a", "0")  # what may stand before a text without joining it
_SHOWN = 20  # characters in an error
_RESERVED = re.compile(f"[{chr(_SENTINEL)}-{_UNKNOWN}]")


# Ids, whether each is a control, and where each starts and stops.
SpelledIds = tuple[np.ndarray, np.ndarray, Callable[[int], tuple[int, int]]]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Ids, and the characters of the text as spelt that each stands for."""

    ids: np.ndarray  # int32
    is_control: np.ndarray  # bool
    place: Callable[[int], int]  # from a place in the text to its place as spelt
    # (start, stop) of the token of an index. Asking for few is far quicker than listing all.
    _chars: Callable[[int], tuple[int, int]]
    _control_places: dict[int, int]  # by index of the token

    def start(self, token: int) -> int:
        """Where the token of this index starts; it never falls from one token to the next."""
        # A control may have taken white space beside it along (rstrip): its own place counts.
        place = self._control_places.get(token)
        return self._chars(token)[0] if place is None else place

    def stop(self, token: int) -> int:
        """Where the token of this index stops; it never falls from one token to the next."""
        place = self._control_places.get(token)
        return self._chars(token)[1] if place is None else place + 1


def joined(first: Encoded, second: Encoded, cut: int) -> Encoded:
    """Both as the ids of one text, of which `first` has the characters before the cut.

    ids      1 9 4 | 7 2       no token is of both sides
    """
    num_first, size = len(first.ids), first.place(cut)

    def place(position: int) -> int:
        return first.place(position) if position < cut else size + second.place(position - cut)

    def chars(token: int) -> tuple[int, int]:
        if token < num_first:
            return first.start(token), first.stop(token)
        token -= num_first
        return size + second.start(token), size + second.stop(token)

    ids, is_control = (
        np.concatenate([one, other])
        for one, other in ((first.ids, second.ids), (first.is_control, second.is_control))
    )
    return Encoded(ids, is_control, place, chars, {})


class Spelling:
    """A copy of a tokenizer in which each control token is spelt as one private-use character.

    The words of a control token are then ordinary text wherever they stand.

    Args:
        backend: a tokenizers.Tokenizer.

    Raises:
        DataError: an added token can't be told from text.
    """

    def __init__(self, backend: Any):
        _refuse_far_ids(backend)
        description = json.loads(backend.to_str())
        self.added_ids: dict[str, int] = {
            t["content"]: t["id"] for t in description["added_tokens"]
        }
        # Runs of white space and the like are ordinary text wherever they stand.
        self.controls = [token for token in self.added_ids if token.strip("\u2581").strip()]
        self._sentinels = dict(zip(self.controls, _characters(len(self.controls)), strict=True))
        unknown = _unknown_token(description["model"])
        variant = _described(description, self._sentinels, unknown)
        self._variant, self._real_ids, self._is_sentinel = _variant_of(
            variant, description["added_tokens"], self._sentinels
        )
        self._is_control = np.zeros(len(self._real_ids), bool)  # by real id
        forgeable = [self.added_ids[token] for token in self.controls if token != unknown]
        self._is_control[forgeable] = True
        self._token_of = backend.id_to_token
        self._words = words_of(variant, self._encode_word)

    def encode(self, text: str, controls: Sequence[Control]) -> Encoded:
        """The ids of `text`, in one tokenization, with `controls` as its only control tokens.

        Args:
            controls: in the order of the text.

        Raises:
            RowError: the text has one of our private-use characters, or a control is lost.
        """
        reserved = None if text.isascii() else _RESERVED.search(text)
        if reserved:
            raise RowError(
                "reserved character", f"has the private-use character U+{ord(reserved[0]):X}"
            )
        spelt, places, place = _spell(text, controls, self._sentinels)
        ids, is_control, chars = self._by_words(text, controls) or self._whole(spelt)
        tokens = np.flatnonzero(is_control).tolist()
        if len(tokens) != len(places):
            raise RowError("control token lost", f"not all of {list(controls)} became tokens")
        return Encoded(ids, is_control, place, chars, dict(zip(tokens, places, strict=True)))

    def encode_after(self, text: str, controls: Sequence[Control]) -> Encoded:
        """The ids of `text` as they go on after other text: of no token that begins a text alone.

        Raises:
            RowError: as `encode`; or the tokenizer joins the text to whatever stands before it.
        """
        if not self._begins_otherwise:
            return self.encode(text, controls)
        for guard in _GUARDS:
            moved = [Control(c.start + 1, c.stop + 1, c.token) for c in controls]
            encoded = self.encode(guard + text, moved)
            tokens = range(len(encoded.ids))
            first = bisect.bisect_left(tokens, 1, key=encoded.start)
            if encoded.stop(first - 1) == 1:  # what spells the guard ends with it
                return _from(encoded, first)
        shown = repr(text[:_SHOWN])
        raise RowError("prompt inside a token", f"the tokenizer has no border before {shown}")

    @functools.cached_property
    def _begins_otherwise(self) -> bool:
        """Whether a text begins with ids that it has nowhere else, as sentencepiece's may."""
        alone, after = (self.encode(text, ()) for text in ("ab", _GUARDS[0] + "ab"))
        return alone.ids.tolist() != after.ids[-len(alone.ids) :].tolist()

    def _encode_word(self, word: str) -> Any:
        """Its tokenizers.Encoding, or None if it has ids that are not the tokenizer's own."""
        encoding = self._variant.encode(word)
        ids = np.array(encoding.ids, np.int32)
        own = (self._real_ids[ids] == ids) & ~self._is_control[ids]
        return encoding if own.all() else None

    def _whole(self, spelt: str) -> SpelledIds:
        encoding = self._variant.encode(spelt)
        variant_ids = np.array(encoding.ids, np.int32)
        ids, is_control = self._real_ids[variant_ids], self._is_sentinel[variant_ids]
        forged = self._is_control[ids] & ~is_control
        if forged.any():
            token = self._token_of(int(ids[forged.argmax()]))
            raise RowError("forged control token", f"message text encodes to {token!r}")
        return ids, is_control, encoding.token_to_chars

    def _by_words(self, text: str, controls: Sequence[Control]) -> SpelledIds | None:
        """What `_whole` gives, from the words of the text between controls; None if it must."""
        if self._words is None:
            return None
        ids, lengths, places, at = [], [], [], 0
        for control in (*controls, None):
            words = self._words.encode(text[at : control.start if control else None])
            if words is None:
                return None
            ids += words[0]
            lengths += words[1]
            if control:
                places.append(len(ids))
                ids.append(self.added_ids[control.token])
                lengths.append(1)
                at = control.stop
        is_control = np.zeros(len(ids), bool)
        is_control[places] = True
        stops = [0, *itertools.accumulate(lengths)]
        return np.array(ids, np.int32), is_control, lambda token: (stops[token], stops[token + 1])

    def is_control(self, ids: np.ndarray) -> np.ndarray:
        """Which ids are control tokens; the unknown token, which text may give, is none."""
        inside = ids < len(self._is_control)
        return inside & self._is_control[np.where(inside, ids, 0)]


def _from(encoded: Encoded, first: int) -> Encoded:
    """The tokens from the first one on, of a text without its first character."""

    def chars(token: int) -> tuple[int, int]:
        return encoded.start(token + first) - 1, encoded.stop(token + first) - 1

    def place(position: int) -> int:
        return encoded.place(position + 1) - 1

    return Encoded(encoded.ids[first:], encoded.is_control[first:], place, chars, {})


def _spell(
    text: str, controls: Sequence[Control], sentinels: dict[str, str]
) -> tuple[str, list[int], Callable[[int], int]]:
    """The text with one character for each control, their places, and the map of places.

    text     < s > H i < / s >      controls [0, 3) and [5, 9)
    spelt    * H i *                places 0 3
    map      3 -> 1, 5 -> 3, 9 -> 4; inside a control counts as after it: 7 -> 4
    """
    pieces, places, stops, saved, at = [], [], [], [0], 0
    for control in controls:
        pieces += [text[at : control.start], sentinels[control.token]]
        places.append(control.start - saved[-1])
        stops.append(control.stop)
        saved.append(saved[-1] + control.stop - control.start - 1)
        at = control.stop
    pieces.append(text[at:])

    def place(position: int) -> int:
        index = bisect.bisect_right(stops, position)
        if index < len(stops) and controls[index].start < position:
            position, index = stops[index], index + 1
        return position - saved[index]

    return "".join(pieces), places, place


def _characters(count: int) -> list[str]:
    if count > _NUM_SENTINELS:
        raise DataError(f"{count} added tokens; at most {_NUM_SENTINELS} can be told apart")
    return [chr(_SENTINEL + n) for n in range(count)]


def _refuse_far_ids(backend: Any) -> None:
    """Tables by id, the library's own too, have room for each id up to the last."""
    vocab = backend.get_vocab(with_added_tokens=True)
    last = max(vocab, key=lambda token: vocab[token], default=None)
    if last is not None and vocab[last] > _LAST_ID:
        raise DataError(
            f"the tokenizer's token {last!r} has the id {vocab[last]}, of {len(vocab)} tokens"
        )


def _unknown_token(model: dict[str, Any]) -> str | None:
    """The token that the model gives for text that it doesn't know."""
    if model["type"] == "Unigram":
        return None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
    return model["unk_token"]


def _described(
    description: dict[str, Any], sentinels: dict[str, str], unknown: str | None
) -> dict[str, Any]:
    """The tokenizer with each control spelt as its sentinel, as tokenizer.json has it; without a
    post-processor it adds no token to a text."""
    added = description["added_tokens"]
    hidden = {token: char for token, char in sentinels.items() if token != unknown}
    return description | {
        **dict.fromkeys(("post_processor", "truncation", "padding")),
        "added_tokens": [
            {**t, "content": sentinels.get(t["content"], t["content"])} for t in added
        ],
        "model": _model_without(description["model"], hidden),
    }


def _variant_of(
    described: dict[str, Any], added: Sequence[dict[str, Any]], sentinels: dict[str, str]
) -> tuple[Any, np.ndarray, np.ndarray]:
    """The tokenizer described; by its ids: the real id, whether the id is a sentinel's."""
    from tokenizers import Tokenizer

    try:
        variant = Tokenizer.from_str(json.dumps(described))
    except BaseException as error:  # the library takes files that it can't write
        if not is_of_library(error):
            raise
        raise DataError(f"the tokenizer contradicts itself: {error}") from None
    vocab = variant.get_vocab(with_added_tokens=True)
    real_ids = np.arange(max([*vocab.values(), *(t["id"] for t in added)]) + 1, dtype=np.int32)
    is_sentinel = np.zeros(len(real_ids), bool)
    for token, copy in zip(added, described["added_tokens"], strict=True):
        variant_id = variant.token_to_id(copy["content"])
        is_spelt = token["content"] in sentinels
        found = variant.encode(f"a {copy['content']} a").ids
        if variant_id is None or (is_spelt and variant_id not in found):
            raise DataError(f"the added token {token['content']!r} can't be told from text")
        real_ids[variant_id] = token["id"]
        is_sentinel[variant_id] = is_spelt
    return variant, real_ids, is_sentinel


def _model_without(model: dict[str, Any], hidden: dict[str, str]) -> dict[str, Any]:
    """The model in which no text can give one of the hidden tokens, as pieces of a sentencepiece
    vocabulary or whole words otherwise might."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        pieces = [[hidden.get(piece, piece), score] for piece, score in vocab]
        if model["unk_id"] is not None:  # known by its place; no text may spell it either
            pieces[model["unk_id"]][0] = _UNKNOWN
        return {**model, "vocab": pieces}
    changed: dict[str, Any] = {
        "vocab": {hidden.get(piece, piece): number for piece, number in vocab.items()}
    }
    if "merges" in model:
        changed["merges"] = [pair for pair in model["merges"] if not hidden.keys() & _made(pair)]
    return {**model, **changed}


def _made(pair: Sequence[str]) -> set[str]:
    return {*pair, "".join(pair)}
