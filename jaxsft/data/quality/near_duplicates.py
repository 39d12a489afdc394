"""Which texts have almost the same words: MinHash signatures, and the pairs that they show.

A text is the set of its pairs of neighbouring words, in lower case and without punctuation; the
similarity of two texts is the share of such pairs that they have in common.

N: texts; W: words of a block of texts; K: places of a signature.
Source: one-permutation MinHash, Li, Owen and Zhang 2012; candidates by neighbours in sorted
order, Bawa, Condie and Ganesan 2005 ("LSH forest").
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

SIMILAR = 0.8  # two texts are near duplicates from here on
PLACES = 64  # bytes in a signature
MAX_TEXT_BYTES = 2**18  # of one text are looked at
_BLOCK_BYTES = 2**20  # of text at a time: a block's arrays take about 20 times as much
_BANDS = range(0, PLACES, 4)  # places at which a band of 8 begins, wrapping around
_PREFIX = np.uint64(0xFFFFFFFF << 32)  # candidates share the first 4 places of a band
_NEIGHBOURS = (1, 2)  # in the sorted order of a band, each is compared with the next ones
_PAIRS_AT_ONCE = 2**17

# Constants of splitmix64 (Steele, Lea and Flood 2014).
_STEP, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_INVERSE = pow(_STEP, -1, 2**64)

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # first, second, similarity


def signatures(texts: Sequence[str | np.ndarray]) -> np.ndarray:
    """uint8 [N, K]: two texts of similarity s agree in about s of the places; 0 is an empty one.

    A text that is an array of token ids has its ids for words.
    """
    result = np.zeros((len(texts), PLACES), np.uint8)
    for rows, words in _blocks(texts):
        of_row, hashes = words
        result[rows] = _signatures_of_words(of_row, hashes, rows.stop - rows.start)
    return result


def _blocks(
    texts: Sequence[str | np.ndarray],
) -> Iterator[tuple[slice, tuple[np.ndarray, np.ndarray]]]:
    """Rows and the words of about _BLOCK_BYTES of texts at a time."""
    pieces: list[bytes | np.ndarray] = []
    start = size = 0
    for row, text in enumerate(texts):
        if isinstance(text, str):
            pieces.append(text[:MAX_TEXT_BYTES].encode("utf-8", "replace")[:MAX_TEXT_BYTES])
            size += len(pieces[-1])
        else:
            pieces.append(text[:MAX_TEXT_BYTES])
            size += 8 * len(text)
        if size >= _BLOCK_BYTES or row == len(texts) - 1:
            yield slice(start, row + 1), _words(pieces)
            pieces, start, size = [], row + 1, 0


def _words(pieces: Sequence[bytes | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(index of the text, 64-bit hash) of each word, in order."""
    text = [(i, piece) for i, piece in enumerate(pieces) if isinstance(piece, bytes)]
    ids = [(i, piece) for i, piece in enumerate(pieces) if not isinstance(piece, bytes)]
    of_row, hashes = _words_of_bytes([piece for _, piece in text])
    of_row = np.array([i for i, _ in text], np.int64)[of_row]
    if ids:
        id_rows = np.repeat([i for i, _ in ids], [len(piece) for _, piece in ids])
        of_row = np.concatenate([of_row, id_rows])
        id_hashes = np.concatenate([piece for _, piece in ids]).astype(np.uint64)
        hashes = np.concatenate([hashes, mixed(id_hashes + np.uint64(1))])
    return of_row, hashes


def _words_of_bytes(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Splits at ASCII punctuation and space, and before each CJK character: those have no spaces.

    A word's hash is the sum over its bytes of code[byte] * step ** place, the place counted from
    the word's start: computed for the whole block at once, then divided by step ** start.
    """
    code, is_word, is_cjk = _byte_tables()
    text = np.frombuffer(b" ".join([b"", *texts]), np.uint8)
    word = is_word[text]
    begins = is_cjk[text]
    begins[1:] |= word[1:] & ~word[:-1]
    starts = np.flatnonzero(begins)
    if not len(starts):
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    rise, fall = _powers(max(len(text), 2 * _BLOCK_BYTES))
    hashes = np.add.reduceat(code[text] * rise[: len(text)], starts) * fall[starts]
    row_starts = np.cumsum([0, *(len(text) + 1 for text in texts)])[:-1]
    return np.searchsorted(row_starts, starts, side="right") - 1, hashes


@functools.cache
def _byte_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By byte: its code, 0 for what separates words; is it part of a word; does a CJK character
    begin (in UTF-8: U+3000 to U+DFFF)."""
    letters = np.arange(256, dtype=np.uint64)
    letters[ord("A") : ord("Z") + 1] += np.uint64(32)
    is_word = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])
    is_cjk = np.zeros(256, bool)
    is_cjk[0xE3:0xEE] = True
    return np.where(is_word, mixed(letters + np.uint64(1)), np.uint64(0)), is_word, is_cjk


@functools.lru_cache(maxsize=1)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """step ** n and its inverse modulo 2 ** 64, for n < count."""
    tables = []
    for factor in (_STEP, _INVERSE):
        table = np.full(count, factor, np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def mixed(values: np.ndarray) -> np.ndarray:
    """A random-looking one-to-one map of uint64: the finish of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MIX_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MIX_2)
    return values ^ (values >> np.uint64(31))


def _signatures_of_words(of_row: np.ndarray, hashes: np.ndarray, num_rows: int) -> np.ndarray:
    """Each word pair falls at one place of its text's signature; the least hash there stays.

    The last word of a text is paired with nothing, so that a text of one word has a pair too.
    """
    follows = np.zeros_like(hashes)
    follows[:-1] = np.where(of_row[1:] == of_row[:-1], hashes[1:], np.uint64(0))
    pairs = mixed(hashes * np.uint64(_STEP) + follows)
    place = of_row * PLACES + (pairs >> np.uint64(58)).astype(np.int64)
    empty = np.uint64(2**64 - 1)
    least = np.full(num_rows * PLACES, empty)
    np.minimum.at(least, place, pairs & np.uint64(2**58 - 1))
    value = (least % np.uint64(255)).astype(np.uint8) + np.uint8(1)
    return np.where(least == empty, np.uint8(0), value).reshape(num_rows, PLACES)


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 [N]: the estimate for two arrays of signatures, row by row."""
    either = np.count_nonzero(first | second, axis=1)
    same = np.count_nonzero((first == second) & (first != 0), axis=1)
    return (same / np.maximum(either, 1)).astype(np.float32)


def similar_pairs(signatures: np.ndarray) -> Pairs:
    """Pairs of rows, first < second, of similarity SIMILAR and more.

    Of many alike not all pairs are listed, but each of them in at least one.
    """
    keys = _filled(signatures)
    found = []
    for band in _BANDS:
        order, sorted_keys = _sorted_band(keys, band)
        for distance in _NEIGHBOURS:
            near = _share_prefix(sorted_keys[distance:], sorted_keys[:-distance])
            found.append(_verified(signatures, signatures, order[near], order[near + distance]))
    first, second, score = (np.concatenate(part) for part in zip(*found, strict=True))
    low, high = np.minimum(first, second), np.maximum(first, second)
    return _unique_pairs(low, high, score)


def similar_between(asked: np.ndarray, among: np.ndarray) -> Pairs:
    """Pairs (row of `asked`, row of `among`) of similarity SIMILAR and more."""
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    asked_keys, among_keys = _filled(asked), _filled(among)
    for band in _BANDS if len(among) else ():
        order, sorted_keys = _sorted_band(among_keys, band)
        wanted = _band(asked_keys, band)
        place = np.searchsorted(sorted_keys, wanted)
        for distance in (-2, -1, 0, 1):
            beside = np.clip(place + distance, 0, len(among) - 1)
            near = _share_prefix(sorted_keys[beside], wanted)
            found.append(_verified(asked, among, near, order[beside[near]]))
    return _unique_pairs(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _filled(signatures: np.ndarray) -> np.ndarray:
    """A copy in which each empty place has the value of the next that is not, around the end.

    Six steps reach over 1, 3, 7, 15, 31 and 63 empty places.
    """
    filled = signatures.copy()
    for start in range(0, len(filled), _PAIRS_AT_ONCE):
        part = filled[start : start + _PAIRS_AT_ONCE]
        for step in (1, 2, 4, 8, 16, 32):
            part[...] = np.where(part == 0, np.roll(part, -step, axis=1), part)
    return filled


def _band(filled: np.ndarray, start: int) -> np.ndarray:
    """uint64 [N]: eight places from `start` on, the first weighing most."""
    places = [(start + n) % PLACES for n in range(8)]
    return np.ascontiguousarray(filled[:, places]).view(">u8")[:, 0].astype(np.uint64)


def _sorted_band(filled: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    keys = _band(filled, start)
    order = np.argsort(keys, kind="stable")
    return order, keys[order]


def _share_prefix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two arrays of bands agree in the places that make a candidate."""
    return np.flatnonzero(((first ^ second) & _PREFIX) == 0)


def _verified(
    firsts: np.ndarray, seconds: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Pairs:
    """Those of the candidate pairs that are similar enough."""
    scores = [np.zeros(0, np.float32)]
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        scores.append(similarity(firsts[first[part]], seconds[second[part]]))
    score = np.concatenate(scores)
    keep = score >= SIMILAR
    return first[keep], second[keep], score[keep]


def _unique_pairs(first: np.ndarray, second: np.ndarray, score: np.ndarray) -> Pairs:
    """Each pair once, in order of its rows."""
    order = np.lexsort((second, first))
    first, second, score = first[order], second[order], score[order]
    is_new = np.ones(len(first), bool)
    is_new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[is_new], second[is_new], score[is_new]
