"""Facts in figures, as JSON: of one set of rows, and of what two sets have in common."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsft.data.quality import near_duplicates
from jaxsft.data.quality.row_statistics import Facts

EXAMPLES = 10  # of pairs of rows
MIN_REPEATS = 5  # of one answer before it is listed
REPEATED_ANSWERS = 5  # listed

Json = dict[str, Any]


def report(facts: Facts) -> Json:
    """What there is to say about these rows; shares are of the rows."""
    _, first, group = np.unique(facts.dialogue, return_index=True, return_inverse=True)
    first_of = first[group]  # [N] the first row of the same dialogue
    unique = np.flatnonzero(first_of == np.arange(len(facts)))
    tokens, supervised = int(facts.tokens.sum()), int(facts.supervised.sum())
    return {
        "conversations": len(facts),
        "turns": {**_figures(facts.turns), "histogram": _histogram(facts.turns)},
        "tokens": {**_figures(facts.tokens), "histogram": _histogram(facts.tokens)},
        "supervised": {
            **_figures(facts.supervised),
            "share": supervised / tokens if tokens else 0.0,
        },
        "exact_duplicates": _exact_duplicates(facts, first_of),
        "near_duplicates": _near_duplicates(facts, unique),
        "repeated_prompts": _repeated_prompts(facts, unique),
        "repeated_answers": _repeated_answers(facts),
        "hints": {
            kind: {
                "rows": hint.rows,
                "share": hint.rows / len(facts),
                "examples": [{"where": e.where, "text": e.text} for e in hint.examples],
            }
            for kind, hint in sorted(facts.hints.items())
        },
    }


def _figures(values: np.ndarray) -> Json:
    if not len(values):
        return dict.fromkeys(("sum", "min", "median", "mean", "p90", "p99", "max"), 0)
    median, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99), method="lower").tolist()
    return {
        "sum": int(values.sum()),
        "min": int(values.min()),
        "median": median,
        "mean": round(float(values.mean()), 2),
        "p90": p90,
        "p99": p99,
        "max": int(values.max()),
    }


def _histogram(values: np.ndarray) -> list[Json]:
    """Rows between powers of two.

    values 1 2 3 9   [1, 2) 1   [2, 4) 2   [4, 8) 0   [8, 16) 1
    """
    edges = np.array([0, *(2**power for power in range(33))])
    bins = np.bincount(np.searchsorted(edges, values, side="right") - 1, minlength=1)
    used = np.flatnonzero(bins)
    return [
        {"from": int(edges[i]), "below": int(edges[i + 1]), "rows": int(bins[i])}
        for i in (range(used[0], used[-1] + 1) if len(used) else ())
    ]


def _exact_duplicates(facts: Facts, first_of: np.ndarray) -> Json:
    """Rows whose dialogue an earlier row has."""
    again = np.flatnonzero(first_of != np.arange(len(facts)))
    return {
        "rows": len(again),
        "share": len(again) / max(len(facts), 1),
        "examples": [
            {"first": facts.where(int(first_of[row])), "again": facts.where(row)}
            for row in again[:EXAMPLES].tolist()
        ],
    }


def _near_duplicates(facts: Facts, unique: np.ndarray) -> Json:
    """Rows with a twin that has almost the same words; exact duplicates are not counted again."""
    signature = facts.signature if len(unique) == len(facts) else facts.signature[unique]
    first, second, score = near_duplicates.similar_pairs(signature)
    return {
        "rows": len(np.union1d(first, second)),
        "later_rows": len(np.unique(second)),  # those that would go if one of each were kept
        "share": len(np.unique(second)) / max(len(facts), 1),
        "similarity_from": near_duplicates.SIMILAR,
        "examples": [
            {
                "first": facts.where(int(unique[first[pair]])),
                "again": facts.where(int(unique[second[pair]])),
                "similarity": round(float(score[pair]), 2),
            }
            for pair in _spread(second)
        ],
    }


def _spread(groups: np.ndarray) -> list[int]:
    """The first place of each of the first EXAMPLES values."""
    return sorted(np.unique(groups, return_index=True)[1].tolist())[:EXAMPLES]


def _repeated_prompts(facts: Facts, unique: np.ndarray) -> Json:
    """Rows whose prompt an earlier row has with another answer."""
    prompts = facts.prompt[unique]
    prompts = prompts[prompts != 0]
    again = len(prompts) - len(np.unique(prompts))
    return {"rows": again, "share": again / max(len(facts), 1)}


def _repeated_answers(facts: Facts) -> Json:
    """The answers given most often, counted in a sample where there are very many."""
    _, first, counts = np.unique(facts.answer_hashes, return_index=True, return_counts=True)
    order = np.lexsort((facts.answer_keys[first], -counts))[:REPEATED_ANSWERS]
    order = order[counts[order] >= MIN_REPEATS]
    sample = max(len(facts.answers), 1)
    return {
        "answers": facts.num_answers,
        "sampled": len(facts.answers),
        "examples": [
            {
                "text": facts.answers[first[i]].text,
                "where": facts.answers[first[i]].where,
                "times": int(counts[i]),
                "share": int(counts[i]) / sample,
            }
            for i in order.tolist()
        ],
    }


def overlap(train: Facts, held_out: Facts) -> Json:
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
    return {
        "rows": len(held_out),
        "exact": _shared(train, held_out, *exact),
        "same_prompt": _shared(train, held_out, *prompt),
        "near": _shared(train, held_out, *near, score[best]),
    }


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
) -> Json:
    examples = []
    for i in range(min(len(rows), EXAMPLES)):
        example: Json = {
            "eval": held_out.where(int(rows[i])),
            "train": train.where(int(train_rows[i])),
        }
        if scores is not None:
            example["similarity"] = round(float(scores[i]), 2)
        examples.append(example)
    return {
        "rows": len(rows),
        "share": len(rows) / max(len(held_out), 1),
        "examples": examples,
    }
