"""Facts in figures: of one set of rows, and of what two sets have in common."""

from collections.abc import Sequence

import numpy as np

from jaxsft.data.quality import near_duplicates
from jaxsft.data.quality.figures import (
    Bin,
    BinnedSpread,
    ExactDuplicates,
    HintedRow,
    HintedRows,
    NearDuplicates,
    Overlap,
    Quality,
    RepeatedAnswer,
    RepeatedAnswers,
    RepeatedPrompts,
    RowPair,
    SharedRow,
    SharedRows,
    Spread,
    SupervisedSpread,
)
from jaxsft.data.quality.row_statistics import Facts

EXAMPLES = 10  # of pairs of rows
MIN_REPEATS = 5  # of one answer before it is listed
REPEATED_ANSWERS = 5  # listed


def quality_of(facts: Facts) -> Quality:
    """What there is to say about these rows."""
    _, first, group = np.unique(facts.dialogue, return_index=True, return_inverse=True)
    first_of = first[group]  # [N] the first row of the same dialogue
    unique = np.flatnonzero(first_of == np.arange(len(facts)))
    tokens, supervised = int(facts.tokens.sum()), int(facts.supervised.sum())
    return Quality(
        conversations=len(facts),
        turns=_binned(facts.turns),
        tokens=_binned(facts.tokens),
        supervised=SupervisedSpread(
            **vars(_spread_of(facts.supervised)), share=supervised / tokens if tokens else 0.0
        ),
        exact_duplicates=_exact_duplicates(facts, first_of),
        near_duplicates=_near_duplicates(facts, unique),
        repeated_prompts=_repeated_prompts(facts, unique),
        repeated_answers=_repeated_answers(facts),
        hints={
            kind: HintedRows(
                hint.rows,
                hint.rows / len(facts),
                [HintedRow(e.where, e.text) for e in hint.examples],
            )
            for kind, hint in sorted(facts.hints.items())
        },
    )


def _binned(values: np.ndarray) -> BinnedSpread:
    return BinnedSpread(**vars(_spread_of(values)), histogram=_histogram(values))


def _spread_of(values: np.ndarray) -> Spread:
    if not len(values):
        return Spread()
    median, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99), method="lower").tolist()
    return Spread(
        sum=int(values.sum()),
        min=int(values.min()),
        median=median,
        mean=round(float(values.mean()), 2),
        p90=p90,
        p99=p99,
        max=int(values.max()),
    )


def _histogram(values: np.ndarray) -> list[Bin]:
    """Rows between powers of two.

    values 1 2 3 9   [1, 2) 1   [2, 4) 2   [4, 8) 0   [8, 16) 1
    """
    edges = np.array([0, *(2**power for power in range(33))])
    bins = np.bincount(np.searchsorted(edges, values, side="right") - 1, minlength=1)
    used = np.flatnonzero(bins)
    return [
        Bin(int(edges[i]), int(edges[i + 1]), int(bins[i]))
        for i in (range(used[0], used[-1] + 1) if len(used) else ())
    ]


def _exact_duplicates(facts: Facts, first_of: np.ndarray) -> ExactDuplicates:
    """Rows whose dialogue an earlier row has."""
    again = np.flatnonzero(first_of != np.arange(len(facts)))
    return ExactDuplicates(
        rows=len(again),
        share=len(again) / max(len(facts), 1),
        examples=[
            RowPair(facts.where(int(first_of[row])), facts.where(row))
            for row in again[:EXAMPLES].tolist()
        ],
    )


def _near_duplicates(facts: Facts, unique: np.ndarray) -> NearDuplicates:
    """Rows with a twin that has almost the same words; exact duplicates are not counted again."""
    signature = facts.signature if len(unique) == len(facts) else facts.signature[unique]
    first, second, score = near_duplicates.similar_pairs(signature)
    return NearDuplicates(
        rows=len(np.union1d(first, second)),
        later_rows=len(np.unique(second)),
        share=len(np.unique(second)) / max(len(facts), 1),
        similarity_from=near_duplicates.SIMILAR,
        examples=[
            RowPair(
                facts.where(int(unique[first[pair]])),
                facts.where(int(unique[second[pair]])),
                round(float(score[pair]), 2),
            )
            for pair in _first_of_each(second)
        ],
    )


def _first_of_each(groups: np.ndarray) -> list[int]:
    """The first place of each of the first EXAMPLES values."""
    return sorted(np.unique(groups, return_index=True)[1].tolist())[:EXAMPLES]


def _repeated_prompts(facts: Facts, unique: np.ndarray) -> RepeatedPrompts:
    """Rows whose prompt an earlier row has with another answer."""
    prompts = facts.prompt[unique]
    prompts = prompts[prompts != 0]
    again = len(prompts) - len(np.unique(prompts))
    return RepeatedPrompts(again, again / max(len(facts), 1))


def _repeated_answers(facts: Facts) -> RepeatedAnswers:
    """The answers given most often, counted in a sample where there are very many."""
    _, first, counts = np.unique(facts.answer_hashes, return_index=True, return_counts=True)
    order = np.lexsort((facts.answer_keys[first], -counts))[:REPEATED_ANSWERS]
    order = order[counts[order] >= MIN_REPEATS]
    sample = max(len(facts.answers), 1)
    return RepeatedAnswers(
        answers=facts.num_answers,
        sampled=len(facts.answers),
        examples=[
            RepeatedAnswer(
                text=facts.answers[first[i]].text,
                where=facts.answers[first[i]].where,
                times=int(counts[i]),
                share=int(counts[i]) / sample,
            )
            for i in order.tolist()
        ],
    )


def overlap_of(train: Facts, held_out: Facts) -> Overlap:
    """Rows of an evaluation set that training shows: the same dialogue, the same prompt with
    another answer, or almost the same words; each row is counted under the first that holds."""
    exact = _common(train.dialogue, held_out.dialogue)
    prompt = _common(train.prompt, held_out.prompt)
    is_exact = np.zeros(len(held_out), bool)
    is_exact[exact[0]] = True
    is_new_prompt = ~is_exact[prompt[0]] & (held_out.prompt[prompt[0]] != 0)
    prompt = prompt[0][is_new_prompt], prompt[1][is_new_prompt]
    is_known = is_exact.copy()
    is_known[prompt[0]] = True
    rest = np.flatnonzero(~is_known)
    asked, among, score = near_duplicates.similar_between(held_out.signature[rest], train.signature)
    best = np.lexsort((-score, asked))
    best = best[np.unique(asked[best], return_index=True)[1]]
    near = rest[asked[best]], among[best]
    return Overlap(
        rows=len(held_out),
        exact=_shared(train, held_out, *exact),
        same_prompt=_shared(train, held_out, *prompt),
        near=_shared(train, held_out, *near, score[best]),
    )


def _common(among: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place in `asked`, first place in `among`) of each value that stands in both."""
    values, first = np.unique(among, return_index=True)
    place = np.minimum(np.searchsorted(values, asked), max(len(values) - 1, 0))
    found = np.flatnonzero(values[place] == asked) if len(values) else np.zeros(0, np.int64)
    return found, first[place[found]]


def _shared(
    train: Facts,
    held_out: Facts,
    rows: np.ndarray,
    train_rows: np.ndarray,
    scores: Sequence[float] | np.ndarray | None = None,
) -> SharedRows:
    examples = [
        SharedRow(
            held_out.where(int(rows[i])),
            train.where(int(train_rows[i])),
            None if scores is None else round(float(scores[i]), 2),
        )
        for i in range(min(len(rows), EXAMPLES))
    ]
    return SharedRows(len(rows), len(rows) / max(len(held_out), 1), examples)
