"""Scores by a number in an answer, such as that after gsm8k's ####."""

import decimal
import re
from decimal import Decimal

from jaxsft.config import scorers
from jaxsft.errors import ConfigError
from jaxsft.evaluation.scoring.case import Case, NotScored, ScoreOne

# Sign and currency come in either order. What may be a number is taken whole, and judged then: of
# 3,5 or 1.2.3 no part is the number that was meant.
_NUMBER = re.compile(r"(?P<signs>[-+−–]?[ ]?[$€£¥]?[ ]?[-+−–]?)(?P<digits>\.?\d[\d.,]*)")
_PLAIN = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+")
_GOES_ON = re.compile(r"[eE][+-]?\d|/\d")  # 1e5 and 1/2
_LONGEST = 400  # digits, more than the largest of any float


def number(settings: scorers.Number, where: str) -> ScoreOne:
    if not settings.mark.strip():
        raise ConfigError(
            f"{where}.mark={settings.mark!r}: expected a text; to take the last"
            " number of an answer, leave the mark and set last=True"
        )
    if not 0 <= settings.tolerance < float("inf"):
        raise ConfigError(f"{where}.tolerance={settings.tolerance}: must be finite, and 0 or more")
    tolerance = Decimal(repr(settings.tolerance))

    def score(case: Case) -> bool:
        wanted = after_mark(case.reference, settings.mark, or_last=True)
        if wanted is None:
            raise NotScored(f"the reference has no number after {settings.mark!r} nor at its end")
        found = after_mark(case.answer, settings.mark, or_last=settings.last)
        if found is None:
            return False
        with decimal.localcontext(prec=2 * _LONGEST + 2):
            return abs(found - wanted) <= tolerance

    return score


def after_mark(text: str, mark: str, or_last: bool) -> Decimal | None:
    """The number that begins right after the first mark, but for space and stars.

    Args:
        or_last: the last number of a text without the mark.
    """
    before, found, after = text.partition(mark)
    if found:
        begin = re.match(r"[\s*:=]*", after)
        match = _NUMBER.match(after, begin.end() if begin else 0)
        return None if match is None else _value(match, after)
    matches = list(_NUMBER.finditer(before)) if or_last else []
    return _value(matches[-1], before) if matches else None


def _value(match: re.Match[str], text: str) -> Decimal | None:
    digits = match["digits"].rstrip(".,")  # those of the sentence
    end = match.start("digits") + len(digits)
    if not _PLAIN.fullmatch(digits) or _GOES_ON.match(text, end) or len(digits) > _LONGEST:
        return None
    signs = match["signs"]
    minus = sum(signs.count(one) for one in "-−–")
    if minus and match.start() and text[match.start() - 1].isalnum():
        minus = 0  # of a word or a range, such as 3-4
    return -Decimal(digits.replace(",", "")) if minus else Decimal(digits.replace(",", ""))
