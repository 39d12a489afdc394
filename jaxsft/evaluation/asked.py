"""Answers that a model gave, as scored samples and as figures."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxsft.config import Eval
from jaxsft.data.conversation import Message
from jaxsft.devices import distributed
from jaxsft.evaluation.answers import Prompt
from jaxsft.evaluation.scoring.calls import calls_in, plain_calls
from jaxsft.evaluation.scoring.case import Case
from jaxsft.evaluation.scoring.registry import MATCH, Scorer
from jaxsft.evaluation.scoring.scored import scored
from jaxsft.evaluation.scoring.table import rates_of
from jaxsft.rundir.sample import Sample
from jaxsft.training.inputs import Say

# Of the untrained model, that was helped: what the names of its figures end with.
ENDINGS = {"before_with_instruction": "_with_instruction", "before_with_shots": "_with_shots"}


@dataclasses.dataclass(frozen=True)
class Reply:
    prompt: Prompt
    text: str
    ended: bool  # by itself
    tokens: int


def samples_of(
    answers: Sequence[Reply], scorers: Sequence[Scorer], step: int, phase: str, say: Say
) -> list[Sample]:
    """The answers with their scores, the same on every process: the first one scores, for a judge
    is asked once, and a function of the user's may look at its own machine."""
    cases = [
        Case(answer.text, answer.prompt.reference, row_of(answer.prompt)) for answer in answers
    ]
    told: list[Any] = distributed.of_first(lambda: list(_scores(answers, cases, scorers)))
    scores, notes = told
    for note in notes:
        say("score", f"{phase}: {note}")
    return [_sample(one, its, step, phase) for one, its in zip(answers, scores, strict=True)]


def _scores(
    answers: Sequence[Reply], cases: Sequence[Case], scorers: Sequence[Scorer]
) -> tuple[list[dict[str, bool | float | None]], list[str]]:
    """Of each answer, by those scorers that are for its set; and what is to be said of them."""
    scores: list[dict[str, bool | float | None]] = [{} for _ in answers]
    notes: list[str] = []
    for scorer in scorers:
        theirs = [i for i, a in enumerate(answers) if _scores_of(scorer, a.prompt)]
        found = scored(scorer, [cases[index] for index in theirs])
        notes += found.notes
        for index, score in zip(theirs, found.scores, strict=True):
            scores[index][scorer.name] = score
    return scores, notes


def _scores_of(scorer: Scorer, prompt: Prompt) -> bool:
    by = prompt.scored_by
    return scorer.scores_set(prompt.source) if by is None else scorer.name in by


def _sample(
    answer: Reply, scores: Mapping[str, bool | float | None], step: int, phase: str
) -> Sample:
    prompt, match = answer.prompt, scores.get(MATCH)
    return Sample(
        step=step,
        phase=phase,
        source=prompt.source,
        row=prompt.row,
        prompt=str(prompt.messages[-1].content) if prompt.messages else "",
        answer=answer.text,
        reference=prompt.reference,
        ended=answer.ended,
        match=match if isinstance(match, bool) else None,
        scores=scores,
        answer_tokens=answer.tokens,
        messages=[plain(message) for message in prompt.messages],
        tools=prompt.tools or (),
        tool_calls=calls_in(answer.text),
        reference_tool_calls=plain_calls(prompt.reference_calls),
    )


def row_of(prompt: Prompt) -> dict[str, Any]:
    """What scorers see of a row, a user's function among them."""
    return {
        "messages": [plain(message) for message in prompt.messages],
        "tools": prompt.tools,
        "reference": prompt.reference,
        "reference_tool_calls": plain_calls(prompt.reference_calls),
        "source": prompt.source,
        "row": prompt.row,
    }


def plain(message: Message) -> dict[str, Any]:
    """The message as OpenAI writes it, without what it has not."""
    others = {"reasoning_content": message.reasoning, "name": message.name}
    said = {"role": message.role, "content": str(message.content)}
    calls = {"tool_calls": list(message.tool_calls)} if message.tool_calls else {}
    return said | {key: value for key, value in others.items() if value is not None} | calls


def figures_of(samples: Sequence[Sample], phase: str) -> dict[str, float | None]:
    """`eval/<set>/<scorer>`, and beside it, under eval_low, eval_high and eval_count, the 95 %
    interval and the answers that have a score."""
    ending, values = ENDINGS.get(phase, ""), {}
    for (source, scorer), rate in rates_of(samples).items():
        name = f"{source}/{scorer}{ending}"
        values[f"eval/{name}"] = rate.mean
        values[f"eval_low/{name}"], values[f"eval_high/{name}"] = rate.low, rate.high
        values[f"eval_count/{name}"] = rate.count
    return values


def scores_of(evaluation: Eval, scorers: Sequence[Scorer], sets: Iterable[str]) -> list[str]:
    """The figures of answers that every evaluation during training has."""
    if evaluation.answer_every_steps != 1:
        return []
    return [f"eval/{name}/{one.name}" for name in sets for one in scorers if one.scores_set(name)]


def said(value: float | None) -> str:
    """A mean of scores, in words: a share where it can be one."""
    if value is None:
        return "not known"
    return f"{value:.1%}" if 0 <= value <= 1 else f"{value:.4g}"
