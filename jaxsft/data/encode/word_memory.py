"""The ids of plain text word by word, from memory: the same ids, several times as fast.

Byte-level BPE tokenizers cut text into words by regular expressions before anything else and
encode each word by itself. Data sets use the same words again and again, so most of the work is
done once. Only text of the characters below goes this way, for which the expressions mean the same
to Python as to the tokenizer; that they do is tried out on random text when one is opened.
"""

import itertools
import random
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

_MAX_BYTES = 2**27  # of remembered words, about; then it begins anew
_LONG = 200  # characters: a word that long seldom comes again
# Bytes in Python: of an entry with its word and two lists; of a token in both lists.
_ENTRY_BYTES, _TOKEN_BYTES = 400, 48
_MAX_TEXTS, _SHORT = 1000, 256  # texts remembered whole, and their characters
_LATIN, _SIGNS = "À-ÖØ-öø-ÿ", "‘’“”–—…•£€°×÷§©®™"
_PLAIN = re.compile(rf"[\t\n\r -~{_LATIN}{_SIGNS}]*")
_ASCII = re.compile(r"[\t\n\r -~]*")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Unicode properties that hold of those characters.
_PROPERTIES = {
    "L": f"a-zA-Z{_LATIN}",
    "N": "0-9",
    "Lu": "A-ZÀ-ÖØ-Þ",
    "Ll": "a-zß-öø-ÿ",
}
_PROPERTIES |= dict.fromkeys(("Lt", "Lm", "Lo", "M", "Mn", "Nl", "No", "Han"), "")
_PLAIN_FOR = {None: _PLAIN, "NFC": _PLAIN, "NFD": _ASCII, "NFKC": _ASCII, "NFKD": _ASCII}

WordIds = tuple[list[int], list[int]]  # ids, and the characters of each


class Words:
    """Remembers the ids of words. Make one with `words_of`."""

    def __init__(
        self,
        plain: re.Pattern[str],
        patterns: Sequence[re.Pattern[str]],
        encode: Callable[[str], Any],
    ):
        self._plain = plain
        self._patterns = patterns
        self._encode = encode
        self._ids: dict[str, list[int]] = {}  # of words
        self._lengths: dict[str, list[int]] = {}
        self._num_bytes = 0
        self._texts: dict[str, WordIds] = {}

    def encode(self, text: str) -> WordIds | None:
        """Ids of the text and the characters of each; None: the tokenizer itself must.

        The characters of all tokens are together the text.
        """
        is_short = len(text) < _SHORT  # what templates write comes again in every conversation
        if is_short and text in self._texts:
            return self._texts[text]
        if not self._plain.fullmatch(text):
            return None
        words = self._split(text)
        try:
            result = self._look_up(words, {})
        except KeyError:
            passing = self._learn(words)
            if passing is None:
                return None
            result = self._look_up(words, passing)
        if is_short:
            if len(self._texts) >= _MAX_TEXTS:
                self._texts.clear()
            self._texts[text] = result
        return result

    def _look_up(self, words: Sequence[str], passing: dict[str, WordIds]) -> WordIds:
        chain = itertools.chain.from_iterable
        if not passing:
            ids = list(chain(map(self._ids.__getitem__, words)))
            return ids, list(chain(map(self._lengths.__getitem__, words)))
        found = [passing.get(w) or (self._ids[w], self._lengths[w]) for w in words]
        return list(chain(ids for ids, _ in found)), list(chain(sizes for _, sizes in found))

    def _split(self, text: str) -> list[str]:
        first, *others = self._patterns
        words = _cut(first, text)
        for pattern in others:
            words = [piece for word in words for piece in _cut(pattern, word)]
        return words

    def _learn(self, words: Sequence[str]) -> dict[str, WordIds] | None:
        """Remembers the words; returns those that are too long for that, None if not all of them
        can be known."""
        if self._num_bytes >= _MAX_BYTES:
            self._ids.clear()
            self._lengths.clear()
            self._num_bytes = 0
        passing: dict[str, WordIds] = {}
        for word in words:
            if word in self._ids or word in passing:
                continue
            tokens = self._encode_alone(word)
            if tokens is None:
                return None
            # Words of a single text beyond the bound are kept for that text only, too.
            if len(word) >= _LONG or self._num_bytes >= _MAX_BYTES:
                passing[word] = tokens
                continue
            self._ids[word], self._lengths[word] = tokens
            self._num_bytes += _ENTRY_BYTES + 4 * len(word) + _TOKEN_BYTES * len(tokens[0])
        return passing

    def _encode_alone(self, word: str) -> WordIds | None:
        # A word that would be cut again when it stands alone can't be encoded alone.
        encoding = self._encode(word) if self._split(word) == [word] else None
        if encoding is None:
            return None
        stops = [0, *(stop for _, stop in encoding.offsets)]
        if encoding.offsets != list(itertools.pairwise(stops)) or stops[-1] != len(word):
            return None  # tokens that share a character
        return encoding.ids, [stop - start for start, stop in encoding.offsets]


def _cut(pattern: re.Pattern[str], text: str) -> list[str]:
    """What the pattern finds, and what stands between."""
    found = pattern.findall(text)
    if len("".join(found)) == len(text):
        return found
    pieces, at = [], 0
    for match in pattern.finditer(text):
        pieces += [text[at : match.start()], match.group()]
        at = match.end()
    return [piece for piece in (*pieces, text[at:]) if piece]


def words_of(description: dict[str, Any], encode: Callable[[str], Any]) -> Words | None:
    """The words of a tokenizer, or None where its words don't stand for themselves.

    Args:
        description: the tokenizer, as tokenizer.json has it.
        encode: of the tokenizer, without special tokens; None for a word that must not be kept.
    """
    normalizer, model = description["normalizer"], description["model"]
    kind = None if normalizer is None else normalizer["type"]
    if kind not in _PLAIN_FOR or model.get("type") != "BPE" or model.get("dropout"):
        return None
    plain = _PLAIN_FOR[kind]
    # Added tokens are cut out of text first; those that plain text can hold would be missed.
    if any(plain.fullmatch(t["content"]) or t["lstrip"] for t in description["added_tokens"]):
        return None
    patterns = _patterns(description["pre_tokenizer"])
    if not patterns:
        return None
    words = Words(plain, patterns, encode)
    return words if _agrees(words, encode) else None


def _patterns(stage: dict[str, Any] | None) -> list[re.Pattern[str]]:
    """What cuts text into words, first to last; empty if that can't be said in Python."""
    if stage is None:
        return []
    expressions: list[str | None] = []
    for part in stage["pretokenizers"] if stage["type"] == "Sequence" else [stage]:
        kind = part["type"]
        if kind == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
            expressions.append(part["pattern"].get("Regex"))
        elif kind == "Digits":
            expressions.append(r"\p{N}|[^\p{N}]+" if part["individual_digits"] else None)
        elif kind == "ByteLevel" and not part["add_prefix_space"]:
            expressions += [_GPT2] if part["use_regex"] else []
        else:
            return []
    patterns = [_in_python(expression) for expression in expressions]
    return [p for p in patterns if p] if None not in patterns else []


def _in_python(expression: str | None) -> re.Pattern[str] | None:
    """The expression for plain text; None if it can't be said."""
    if expression is None:
        return None
    pieces, inside, at = [], False, 0
    for match in re.finditer(r"\\p\{(\w+)\}|\\.|[\[\]]", expression):
        pieces.append(expression[at : match.start()])
        at, token = match.end(), match.group()
        if match[1] is not None:
            if match[1] not in _PROPERTIES:
                return None
            token = _PROPERTIES[match[1]] if inside else f"[{_PROPERTIES[match[1]]}]"
        inside = token == "[" or (inside and token != "]")
        pieces.append(token)
    try:
        return re.compile("".join([*pieces, expression[at:]]), re.ASCII)
    except re.error:  # Python has no such expression
        return None


def _agrees(words: Words, encode: Callable[[str], Any], trials: int = 200) -> bool:
    """Whether random text, made of what expressions tell apart, gets the same ids."""
    rng = random.Random(0)
    atoms = [*string.printable[:-2], "'s", "'LL", "  ", "\n\n", " the", "Word", "123", "\r\n"]
    atoms += ["É", "é", "ß", *_SIGNS]
    for _ in range(trials):
        text = "".join(rng.choices(atoms, k=rng.randint(1, 60)))
        ours, theirs = words.encode(text), encode(text)
        if ours is None or theirs is None:
            continue
        stops = list(itertools.accumulate(ours[1]))
        if ours[0] != theirs.ids or stops != [stop for _, stop in theirs.offsets]:
            return False
    return True
