"""Rows and tokens are conserved, whatever becomes of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxsft.data.conversation import BadRow
from jaxsft.data.encode import account
from jaxsft.data.encode.account import COUNTS, Account, Drop, Outcome, Tally
from jaxsft.data.encode.tokenize import Example


def example(num_tokens, num_supervised, left_out=0, **fields):
    weights = np.zeros(num_tokens, np.float32)
    weights[num_tokens - num_supervised :] = 0.5
    ids = np.zeros(num_tokens, np.int32)
    return Example(ids, weights, "f", 1, (), truncated_tokens=left_out, **fields)


EXAMPLES = st.builds(example, st.integers(5, 9), st.integers(1, 4), st.integers(0, 3))
DROPS = st.builds(Drop, st.sampled_from(["a", "b"]), st.just("detail"), st.integers(1, 9))
OUTCOMES = st.one_of(
    st.builds(
        Outcome,
        st.just("f"),
        st.just(1),
        st.lists(EXAMPLES, min_size=1).map(tuple),
        st.lists(DROPS).map(tuple),
    ),
    st.builds(
        Outcome, st.just("f"), st.just(1), st.just(()), st.lists(DROPS, min_size=1).map(tuple)
    ),
    st.just(Outcome("f", 1, bad=BadRow("f", 1, "broken", "is broken"))),
)


@given(st.lists(OUTCOMES), st.integers(0, 5))
def test_a_report_conserves_rows_and_tokens_and_merging_is_adding(outcomes, at):
    whole, head, tail = Tally(), Tally(), Tally()
    for index, outcome in enumerate(outcomes):
        whole.add(outcome)
        (head if index < at else tail).add(outcome)
    head.merge(tail)
    assert head.account() == whole.account()
    report = whole.account()
    assert report.rows_in == len(outcomes) == report.rows_out + sum(report.dropped.values())
    kept = [e for outcome in outcomes for e in outcome.kept]
    drops = [drop for outcome in outcomes for drop in outcome.dropped]
    tokens = report.tokens
    assert tokens.supervised + tokens.context == sum(len(e.ids) for e in kept)
    assert tokens.supervised == sum(int((e.weights > 0).sum()) for e in kept)
    assert tokens.truncated == sum(e.truncated_tokens for e in kept)
    assert tokens.dropped == sum(drop.num_tokens for drop in drops)
    assert tokens.rendered == sum(list(vars(tokens).values())[1:])
    assert sum(report.dropped_examples.values()) == len(drops)


def test_each_count_has_its_source():
    one = example(6, 2, 3, is_split=True, turns=(1, 3), boundary_tokens=4, control_text=5)
    two = example(6, 2, 1, truncated_turns=7, header="<think>", text_controls=3, near_turns=9)
    tally = Tally()
    tally.add(Outcome("f", 1, kept=(one, two)))
    report = tally.account()
    assert {name: vars(report)[name] for name in COUNTS} == {
        "rows_in": 1,
        "rows_out": 1,
        "examples": 2,
        "supervised_turns": 2,
        "split_conversations": 1,
        "near_turns": 9,
        "text_controls": 3,
        "trained_headers": 1,
        "boundary_tokens": 4,
        "control_text": 5,
        "truncated_examples": 2,
        "truncated_turns": 7,
    }


def test_of_nothing_there_is_nothing_and_a_row_is_counted_by_its_first_reason():
    tally = Tally()
    assert tally.account() == Account()
    tally.add(Outcome("f", 1, dropped=(Drop("long", "it is", 3), Drop("silent", "it is", 2))))
    assert tally.account().dropped == {"long": 1}
    assert tally.account().dropped_examples == {"long": 1, "silent": 1}


def test_names_of_columns_are_counted_up_to_a_number_of_them(monkeypatch):
    monkeypatch.setattr(account, "MAX_UNREAD", 2)
    tally = Tally()
    for unread in (("a", "b"), ("c", "a"), ("d",)):
        tally.add(Outcome("f", 1, kept=(example(5, 1),), unread=unread))
    assert tally.account().unread_columns == {"a": 2, "b": 1, "other columns": 2}
