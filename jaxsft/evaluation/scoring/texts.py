"""Scores by the text of an answer: the same, a part, a regular expression."""

import regex

from jaxsft.config import scorers
from jaxsft.errors import ConfigError
from jaxsft.evaluation.scoring.case import Case, NotScored, ScoreOne, ScorerIsAway


def exact(settings: scorers.Exact, where: str) -> ScoreOne:
    def score(case: Case) -> bool:
        return _plain(case.answer, settings.ignore_case) == _plain(
            case.reference, settings.ignore_case
        )

    return score


def contains(settings: scorers.Contains, where: str) -> ScoreOne:
    if settings.text is not None and not settings.text.strip():
        raise ConfigError(
            f"{where}.text={settings.text!r}: every answer has that in it; None takes the reference"
        )

    def score(case: Case) -> bool:
        wanted = case.reference if settings.text is None else settings.text
        if not wanted.strip():
            raise NotScored("the reference is empty: every answer has it in it")
        return _plain(wanted, settings.ignore_case) in _plain(case.answer, settings.ignore_case)

    return score


def _plain(text: str, ignore_case: bool) -> str:
    return text.strip().casefold() if ignore_case else text.strip()


def by_pattern(settings: scorers.Regex, where: str) -> ScoreOne:
    pattern = compiled(settings.pattern, f"{where}.pattern")
    seconds = positive(settings.timeout_seconds, f"{where}.timeout_seconds")
    if settings.compare and not pattern.groups:
        raise ConfigError(
            f"{where}.pattern={settings.pattern!r}: has no group to compare with the reference's;"
            " put one in parentheses, or set compare=False"
        )

    def score(case: Case) -> bool:
        found = search(pattern, case.answer, seconds)
        if found is None or not settings.compare:
            return found is not None
        theirs = search(pattern, case.reference, seconds)
        wanted = case.reference if theirs is None else theirs[1] or ""
        return (found[1] or "").strip() == wanted.strip()

    return score


def compiled(pattern: str, where: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ConfigError(f"{where}={pattern!r}: is no regular expression: {error}") from None


def search(pattern: regex.Pattern[str], text: str, seconds: float) -> regex.Match[str] | None:
    """The first place; an expression that tries for ever, such as (a*)*b, is stopped.

    Raises:
        ScorerIsAway: it took longer.
    """
    try:
        return pattern.search(text, timeout=seconds)
    except TimeoutError:
        raise ScorerIsAway(
            f"the regular expression {pattern.pattern!r} took more than {seconds:g} s"
        ) from None


def positive(value: float, name: str) -> float:
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name}={value}: must be finite and greater than 0")
    return value
