"""The ids of plain text word by word, from memory: the same ids, several times as fast.

Byte-level BPE tokenizers cut text into words by regular expressions before anything else and
encode each word by itself. Data sets use the same words again and again, so most of the work is
done once. Only printable ASCII goes this way, for which the expressions mean the same to Python as
to the tokenizer; that they do is tried out on random text when a tokenizer is opened.
"""

import itertools
import random
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

_MAX_WORDS = 500_000  # remembered; then it begins anew
_MAX_TEXTS, _SHORT = 1000, 256  # texts remembered whole, and their characters
_PLAIN = re.compile(r"[\t\n\r -~]*")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# What Unicode properties hold of ASCII.
_PROPERTIES = {"L": "a-zA-Z", "N": "0-9", "Lu": "A-Z", "Ll": "a-z"}
_PROPERTIES |= dict.fromkeys(("Lt", "Lm", "Lo", "M", "Mn", "Nl", "No", "Han"), "")
_SAME_ON_ASCII = (None, "NFC", "NFD", "NFKC", "NFKD")

Word = tuple[list[int], list[int]]  # ids, and the characters of each


class Words:
    """Remembers the ids of words. Make one with `words_of`."""

    def __init__(self, patterns: Sequence[re.Pattern[str]], encode: Callable[[str], Any]):
        self._patterns = patterns
        self._encode = encode
        self._known: dict[str, Word | None] = {}
        self._texts: dict[str, Word] = {}

    def encode(self, text: str) -> Word | None:
        """Ids of the text and the characters of each; None: the tokenizer itself must.

        The characters of all tokens are together the text.
        """
        is_short = len(text) < _SHORT  # what templates write comes again in every conversation
        if is_short and text in self._texts:
            return self._texts[text]
        if not _PLAIN.fullmatch(text):
            return None
        words = self._split(text)
        found = list(map(self._known.get, words))
        if None in found:
            found = [self._known.get(word) or self._look_up(word) for word in words]
        known = [word for word in found if word]
        if len(known) < len(words):
            return None
        chain = itertools.chain.from_iterable
        result = list(chain([ids for ids, _ in known])), list(chain([n for _, n in known]))
        if is_short:
            if len(self._texts) >= _MAX_TEXTS:
                self._texts.clear()
            self._texts[text] = result
        return result

    def _split(self, text: str) -> list[str]:
        words = [text]
        for pattern in self._patterns:
            words = [piece for word in words for piece in _cut(pattern, word)]
        return words

    def _look_up(self, word: str) -> Word | None:
        if word in self._known:
            return self._known[word]
        if len(self._known) >= _MAX_WORDS:
            self._known.clear()
        # A word that would be cut again when it stands alone can't be encoded alone.
        known = None
        if self._split(word) == [word]:
            encoding = self._encode(word)
            known = encoding.ids, [stop - start for start, stop in encoding.offsets]
        self._known[word] = known
        return known


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
        encode: of the tokenizer, without special tokens.
    """
    normalizer, model = description["normalizer"], description["model"]
    kind = None if normalizer is None else normalizer["type"]
    if kind not in _SAME_ON_ASCII or model.get("type") != "BPE" or model.get("dropout"):
        return None
    # Added tokens are cut out of text first; those that ASCII text can hold would be missed.
    if any(token["content"].isascii() or token["lstrip"] for token in description["added_tokens"]):
        return None
    patterns = _patterns(description["pre_tokenizer"])
    if not patterns:
        return None
    words = Words(patterns, encode)
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
    """The expression for ASCII text; None if it can't be said."""
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
    """Whether random ASCII text, made of what expressions tell apart, gets the same ids."""
    rng = random.Random(0)
    atoms = [*string.printable[:-2], "'s", "'LL", "  ", "\n\n", " the", "Word", "123", "\r\n"]
    for _ in range(trials):
        text = "".join(rng.choices(atoms, k=rng.randint(1, 60)))
        ours, theirs = words.encode(text), encode(text)
        if ours is None:
            continue
        stops = list(itertools.accumulate(ours[1]))
        if ours[0] != theirs.ids or stops != [stop for _, stop in theirs.offsets]:
            return False
    return True
