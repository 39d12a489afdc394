"""What the samples of a run say together, from their lines alone."""

import json

import pytest

from jaxsft.evaluation.scoring.table import Rate, ScoreRow, rates_of, said, table
from jaxsft.files import records
from jaxsft.rundir.sample import Sample, from_older

# As it was written before there were several scores.
OLD = (
    '{"step": 0, "phase": "before", "source": "heldout", "row": 3, "prompt": "p", "answer": "a",'
    ' "reference": "r", "ended": true, "match": false}'
)


def test_an_old_line_is_read():
    sample = from_older(records.from_json(Sample, json.loads(OLD)))
    assert sample.scores == {"match": False} and sample.messages == () and sample.ended is True
    assert sample.answer_tokens is None
    (row,) = table([records.from_json(Sample, json.loads(OLD))])
    assert (row.figure, row.rates["before"].count) == ("eval/heldout/match", 1)


def test_a_new_line_says_all_and_is_one_line():
    call = {"name": "f", "arguments": {"x": 1}}
    sample = Sample(
        scores={"exact": True, "judge": 0.5, "away": None},
        messages=[{"role": "system", "content": "s\n"}, {"role": "user", "content": "q"}],
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_calls=[call],
        reference_tool_calls=[call],
        answer_tokens=7,
    )
    line = json.dumps(records.to_json(sample))
    assert "\n" not in line and records.from_json(Sample, json.loads(line)) == sample


def samples(phase: str, scores: list, source="held", name="exact", first=0) -> list[Sample]:
    return [
        Sample(phase=phase, source=source, row=first + row, scores={name: score})
        for row, score in enumerate(scores)
    ]


def test_each_score_has_its_row():
    before = [True] * 8 + [False] * 56
    after = [True] * 39 + [False] * 25
    all_of_them = (
        samples("before", before)
        + samples("before_with_shots", after)
        + samples("during", [True] * 64)
        + samples("after", after)
        + samples("after", [0.5, None, 0.25], "held", "judge", first=100)
    )
    exact, judge = table(all_of_them)
    rate = exact.rates["after"]
    assert (rate.mean, rate.count, rate.failed) == (39 / 64, 64, 0)
    assert (rate.low, rate.high) == pytest.approx((0.4869, 0.7194), abs=1e-4)
    assert set(exact.rates) == {"before", "before_with_shots", "after"}
    assert exact.p_values == {"before": pytest.approx(2 * 0.5**31), "before_with_shots": 1.0}
    assert (judge.rates["after"].mean, judge.rates["after"].failed) == (0.375, 1)
    assert not judge.p_values
    assert said(exact) == "held exact 12.5 % -> 60.9 % of 64 (95 % 49 to 72), p = 9e-10"
    assert said(judge) == "held judge 37.5 % of 2 (95 % 25 to 50); 1 answers have no score"


def test_only_prompts_that_have_both_scores_are_compared():
    """Another count of prompts at a later start, or a judge that was away."""
    before = samples("before", [False, False, True, None])
    after = samples("after", [True, True, True, True, True], first=1)
    (row,) = table(before + after)
    assert row.p_values == {"before": 1.0}  # rows 1 and 2: one better, one the same


def test_numbers_beyond_a_share_are_no_percent():
    rows = table(samples("before", [1.0, 3.0]) + samples("after", [10.0, 30.0]))
    assert said(rows[0]) == "held exact 2 -> 20 of 2 (95 % 10 to 30), p = 0.5"


def test_what_has_no_score_at_all_is_said():
    (row,) = table(samples("after", [None, None]))
    assert row == ScoreRow("held", "exact", {"after": Rate(failed=2)}, {})
    assert said(row) == "held exact: no answer has a score"
    assert rates_of([]) == {} and table([]) == []


def test_a_set_called_as_another_score_is_another():
    both = samples("after", [True], "a", "s") + samples("after", [False], "b", "s")
    assert [(row.source, row.rates["after"].mean) for row in table(both)] == [("a", 1), ("b", 0)]
