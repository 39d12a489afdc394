"""Which of a question's answers are rows to train on: those that end, that no earlier one repeats,
that a scorer calls right; and of those the best."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxsft.answering.questions import Question
from jaxsft.answering.written import Answer
from jaxsft.errors import PeerError
from jaxsft.evaluation.asked import row_of
from jaxsft.evaluation.scoring.case import Case, NotScored, ScorerIsAway
from jaxsft.evaluation.scoring.registry import Scorer

SAME = "the same as an earlier answer"
LOW = "score too low"
NO_SCORE = "no score"
MORE = "more than are kept of a prompt"


@dataclasses.dataclass(frozen=True)
class Rule:
    """
    Attributes:
        scorer: None: whatever ends is kept.
        asks_a_judge: who may be away, and then nothing can be said of the answers to come.
        least: score of an answer that is kept; true is 1.
        most: answers to a prompt that are kept, of the highest scores; None: all.
        reasons: what an answer thought before it is kept with it; it is no part of what is scored.
        prefers_short: of answers with equal scores; else the first.
    """

    scorer: Scorer | None = None
    asks_a_judge: bool = False
    least: float = 1.0
    most: int | None = None
    prefers_short: bool = False
    reasons: bool = True


@dataclasses.dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        why: it is not kept, of few kinds; None: it is.
        detail: the same in full.
        score: None: it has none.
    """

    answer: Answer
    why: str | None
    detail: str
    score: float | None

    @property
    def kept(self) -> bool:
        return self.why is None


def verdicts(rule: Rule, block: Sequence[tuple[Question, Sequence[Answer]]]) -> list[list[Verdict]]:
    """Of each answer of each question.

    Raises:
        PeerError: a judge is away.
    """
    first: list[list[Verdict]] = []
    for _, given in block:
        answers = [answer if rule.reasons else answer.without_reasoning() for answer in given]
        first.append([_alone(answer, answers[:i]) for i, answer in enumerate(answers)])
    if rule.scorer is not None:
        cases = [
            Case(verdict.answer.scored_text, question.prompt.reference, row_of(question.prompt))
            for (question, _), of_question in zip(block, first, strict=True)
            for verdict in of_question
            if verdict.kept
        ]
        scores = _scores(rule, rule.scorer, cases)
        first = [
            [_scored(rule, one, *next(scores)) if one.kept else one for one in of_question]
            for of_question in first
        ]
    return [_best(rule, of_question) for of_question in first]


def _alone(answer: Answer, before: Sequence[Answer]) -> Verdict:
    """What is known of an answer without its score."""
    if answer.why is not None:
        return Verdict(answer, answer.why, answer.detail, None)
    same = [i for i, one in enumerate(before) if one.why is None and _said(one) == _said(answer)]
    if same:
        return Verdict(answer, SAME, f"the same as sample {same[0]}", None)
    return Verdict(answer, None, "", None)


def _said(answer: Answer) -> tuple[str, ...]:
    message = answer.message
    texts = [str(message.get(key, "")) for key in ("content", "reasoning_content")]
    calls = json.dumps(message.get("tool_calls"), sort_keys=True)
    return (*(" ".join(text.split()) for text in texts), calls)


def _scores(
    rule: Rule, scorer: Scorer, cases: Sequence[Case]
) -> Iterator[tuple[float | None, str]]:
    def score(case: Case) -> tuple[float | None, str]:
        try:
            found = float(scorer.score(case))
        except ScorerIsAway as error:
            if rule.asks_a_judge:
                raise PeerError(
                    f"--keep={scorer.name}: {error}; what was kept before is there: start the same"
                    " command again"
                ) from None
            return None, str(error)
        except NotScored as error:
            return None, str(error)
        return (found, "") if math.isfinite(found) else (None, f"is {found}")

    if scorer.workers == 1:
        return map(score, cases)
    with ThreadPoolExecutor(scorer.workers) as pool:
        return iter(list(pool.map(score, cases)))


def _scored(rule: Rule, verdict: Verdict, score: float | None, detail: str) -> Verdict:
    if score is None:
        return dataclasses.replace(verdict, why=NO_SCORE, detail=detail)
    if score < rule.least:
        return dataclasses.replace(verdict, why=LOW, detail=f"{score:g}", score=score)
    return dataclasses.replace(verdict, score=score)


def _best(rule: Rule, found: Sequence[Verdict]) -> list[Verdict]:
    """With no more kept than the rule says."""
    kept = [index for index, one in enumerate(found) if one.kept]
    if rule.most is None or len(kept) <= rule.most:
        return list(found)

    def order(index: int) -> tuple[float, int, int]:
        one = found[index]
        size = len(one.answer.scored_text) if rule.prefers_short else 0
        return -(one.score or 0.0), size, index

    best = sorted(kept, key=order)[: rule.most]
    return [
        dataclasses.replace(one, why=MORE, detail=f"of which {rule.most} are kept")
        if one.kept and index not in best
        else one
        for index, one in enumerate(found)
    ]
