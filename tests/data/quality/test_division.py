"""What is held out is nowhere in what is trained, and which rows those are depends on little."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from jaxsft.data.quality import division, measures, near_duplicates
from jaxsft.data.quality import row_statistics as facts_lib
from jaxsft.data.quality.figures import RowPair
from jaxsft.errors import DataError
from tests.data.quality.test_quality import edited, facts_of, sentence, talk


def unlike(num_rows: int, seed: int = 0) -> list:
    rng = random.Random(seed)
    return [talk(sentence(rng), sentence(rng), row=row) for row in range(1, num_rows + 1)]


def families(num_groups: int, size: int, seed: int = 0) -> list:
    """Rows in groups that are alike: each an edit of the one before, in random order."""
    rng, rows = random.Random(seed), []
    for _ in range(num_groups):
        question, answer = sentence(rng), sentence(rng)
        for _ in range(size):
            rows.append((question, answer))
            answer = edited(rng, answer, 1)
    rng.shuffle(rows)
    return [talk(*said, row=row) for row, said in enumerate(rows, 1)]


def divide(rows, holdout=None, seed=0, duplicates="keep"):
    return division.divide(facts_of(*rows), duplicates, holdout, seed)


@pytest.mark.parametrize(("holdout", "rows"), [(0.05, 10), (0.5, 100), (1, 1), (199, 199)])
def test_as_many_rows_as_asked_are_held_out_and_no_other_is_lost(holdout, rows):
    found = divide(unlike(200), holdout)
    assert len(found.held_out) == rows
    assert sorted([*found.held_out, *found.trained]) == list(range(200))
    assert found.dropped == {} and found.examples == []


def test_the_seed_alone_chooses_them():
    rows = unlike(200)
    first, again, other = (divide(rows, 20, seed).held_out.tolist() for seed in (0, 0, 1))
    assert first == again
    assert len(set(first) & set(other)) < 10
    # Spread over the set, not its beginning.
    assert min(first) < 60 and max(first) > 140


def test_rows_that_are_added_or_moved_change_little_of_it():
    rows = unlike(220)
    facts = facts_of(*rows[:200])
    before = {facts.where(row) for row in divide(rows[:200], 20).held_out.tolist()}
    turned = rows[::-1]
    facts = facts_of(*turned)
    after = {facts.where(row) for row in divide(turned, 22).held_out.tolist()}
    assert len(before & after) >= 17


def test_rows_that_are_alike_stay_on_one_side():
    rows = families(30, 5)
    facts = facts_of(*rows)
    found = divide(rows, 0.2)
    assert len(found.held_out) == 30  # 6 groups
    overlap = measures.overlap_of(
        facts_lib.taken(facts, found.trained), facts_lib.taken(facts, found.held_out)
    )
    assert overlap.rows == 30
    assert overlap.near.rows == overlap.exact.rows == overlap.same_prompt.rows == 0


def test_so_do_those_whose_pairs_are_not_all_known(monkeypatch):
    def few(signatures):
        first, second, score = all_pairs(signatures)
        return first[::7], second[::7], score[::7]

    all_pairs = near_duplicates.similar_pairs
    rows = families(20, 6, seed=3)
    facts = facts_of(*rows)
    monkeypatch.setattr(near_duplicates, "similar_pairs", few)
    # Only the words are alike: the prompts that they share would show it too.
    monkeypatch.setattr(division, "_neighbours", lambda values: (np.zeros(0, int),) * 2)
    found = division.divide(facts, "keep", 0.4, 0)
    among = near_duplicates.similar_between(
        facts.signature[found.held_out], facts.signature[found.trained]
    )
    assert len(found.held_out) and not len(among[0])


def test_rows_of_one_prompt_or_one_dialogue_stay_together():
    rng = random.Random(0)
    prompts = [sentence(rng) for _ in range(40)]
    rows = [talk(prompts[n % 40], sentence(rng), row=n) for n in range(1, 161)]
    rows += [talk(*(m.content for m in rows[n].messages), row=200 + n) for n in range(20)]
    facts = facts_of(*rows)
    found = divide(rows, 0.3)
    held, trained = (
        {(int(p)) for p in facts.prompt[part]} for part in (found.held_out, found.trained)
    )
    assert len(held) > 5 and not held & trained


def test_groups_are_what_pairs_connect():
    rng = np.random.default_rng(0)
    for num_pairs in (0, 3, 15, 40):
        first, second = rng.integers(0, 30, (2, num_pairs))
        found = division._groups(30, first, second).tolist()
        sides = list(range(30))
        for a, b in [*zip(first, second, strict=True)] * 30:
            sides[a] = sides[b] = min(sides[a], sides[b])
        assert found == sides


@pytest.mark.parametrize("holdout", [10, 20, 0.01, 0.99])
def test_too_few_rows_are_refused(holdout):
    with pytest.raises(
        DataError, match=f"config.data.holdout={holdout}: of the 10 rows .* be (10|20|0)"
    ):
        divide(unlike(10), holdout)


def test_too_many_rows_that_are_alike_are_refused():
    rows = families(2, 20)
    with pytest.raises(
        DataError, match="holdout=3: asks for 3 of 40 rows, .* smallest such group has 20 of them"
    ):
        divide(rows, 3)


# --- duplicates


def test_exact_duplicates_go_by_the_first_one():
    rows = unlike(6)
    again = [talk(*(m.content for m in rows[n].messages), row=7 + n) for n in (1, 3)]
    found = divide([*rows, *again], duplicates="drop_exact")
    assert found.trained.tolist() == list(range(6))
    assert {reason: gone.tolist() for reason, gone in found.dropped.items()} == {
        division.EXACT: [6, 7]
    }
    assert found.examples == [
        RowPair("a.jsonl:2", "a.jsonl:8", None),
        RowPair("a.jsonl:4", "a.jsonl:10", None),
    ]


def test_near_duplicates_go_too_and_one_of_each_group_stays():
    rows = [*unlike(20), *families(4, 3, seed=9)]
    rows.append(talk(*(m.content for m in rows[0].messages), row=99))
    found = divide(rows, duplicates="drop_near")
    gone = {reason: len(rows) for reason, rows in found.dropped.items()}
    assert gone == {division.EXACT: 1, division.NEAR: 8}
    assert len(found.trained) == 24
    assert Counter(e.similarity is None for e in found.examples) == {True: 1, False: 8}
    kept = facts_lib.taken(facts_of(*rows), found.trained)
    assert not len(near_duplicates.similar_pairs(kept.signature)[0])


def test_a_row_is_compared_with_rows_that_stay():
    """Each of a chain is like the one before and, from some place on, no longer like the first."""
    rng = random.Random(4)
    words, chain = sentence(rng, 80), []
    for row in range(1, 13):
        chain.append(talk(words, "yes", row=row))
        words = edited(rng, words, 3)
    facts = facts_of(*chain)
    found = division.divide(facts, "drop_near", None, 0)
    assert 1 < len(found.trained) < 9
    kept = facts.signature[found.trained]
    pairs = itertools.combinations(range(len(kept)), 2)
    assert all(
        near_duplicates.similarity(kept[[a]], kept[[b]])[0] < near_duplicates.SIMILAR
        for a, b in pairs
    )
    for row in found.dropped[division.NEAR].tolist():
        earlier = kept[found.trained < row]
        same = near_duplicates.similarity(earlier, facts.signature[[row] * len(earlier)])
        assert same.max() >= near_duplicates.SIMILAR


def test_duplicates_are_dropped_before_a_share_is_held_out():
    rows = [*unlike(100), *(talk(*(m.content for m in r.messages), row=200) for r in unlike(100))]
    found = divide(rows, 0.1, duplicates="drop_exact")
    assert len(found.held_out) == 10 and len(found.trained) == 90


# --- facts of a part


def test_facts_of_a_part_are_those_of_its_rows_alone(monkeypatch):
    rows = [talk("hello there", "I don't", row=row) for row in range(1, 9)]
    rows += [talk("q", "", row=row) for row in range(9, 20)]
    whole, part = facts_of(*rows), np.array([3, 8, 11, 18])
    found, alone = facts_lib.taken(whole, part), facts_of(*(rows[n] for n in part.tolist()))
    assert measures.quality_of(found).hints.keys() == measures.quality_of(alone).hints.keys()
    for kind, hint in found.hints.items():
        assert hint.rows == alone.hints[kind].rows
        assert set(hint.examples) <= set(alone.hints[kind].examples)
    assert found.num_answers == alone.num_answers == 1
    assert found.answers == alone.answers
    for name in facts_lib._COLUMNS:
        assert np.array_equal(getattr(found, name), getattr(alone, name))
