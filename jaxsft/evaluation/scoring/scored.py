"""The scores of many answers by one scorer; what has none is counted, with the reason."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxsft.devices import progress
from jaxsft.evaluation.scoring.case import Case, NotScored, Score, ScorerIsAway
from jaxsft.evaluation.scoring.registry import Scorer

_GIVES_UP = 5  # answers in a row whose scorer was away: the others are not waited for


@dataclasses.dataclass(frozen=True)
class Scored:
    """
    Attributes:
        scores: of each answer; None: it has none.
        notes: what is to be said of those without.
    """

    scores: list[Score | None]
    notes: list[str]


def scored(scorer: Scorer, cases: Sequence[Case]) -> Scored:
    scores: list[Score | None] = []
    reasons: list[str] = []
    for score, reason in _each(scorer, cases):
        progress.mark()
        scores.append(score)
        reasons += [reason] if reason is not None else []
    return Scored(scores, [_note(scorer.name, reasons, len(cases))] if reasons else [])


def _each(scorer: Scorer, cases: Sequence[Case]) -> Iterator[tuple[Score | None, str | None]]:
    lock = threading.Lock()
    streak = 0

    def one(case: Case) -> tuple[Score | None, str | None]:
        nonlocal streak
        if streak >= _GIVES_UP:  # and is never less again
            return None, f"not asked after {_GIVES_UP} failures in a row"
        try:
            score, reason = scorer.score(case), None
        except NotScored as error:
            score, reason = None, " ".join(str(error).split())[:300]
            if isinstance(error, ScorerIsAway):
                with lock:
                    streak += 1
                return score, reason
        with lock:
            streak = 0 if streak < _GIVES_UP else streak
        return score, reason

    if scorer.workers == 1:
        yield from map(one, cases)
        return
    with ThreadPoolExecutor(scorer.workers) as pool:
        yield from pool.map(one, cases)


def _note(name: str, reasons: Sequence[str], count: int) -> str:
    return f"{name}: {len(reasons)} of {count} answers have no score, such as for: {reasons[0]}"
