"""Loss weights of what is minimised: by example and by source."""

import numpy as np
import pytest

from jaxsft.config import Loss, Source
from jaxsft.data.pack import packing, reweight
from jaxsft.data.pack.reweight import Reweighting
from jaxsft.errors import ConfigError

CODE, TALK = Source(path="code.jsonl"), Source(path="talk.jsonl", name="talk")
WEIGHTS = [np.array(one, np.float32) for one in ([0, 1, 1], [9, 1, 3], [0, 0, 0])]
SOURCES_OF = np.array([0, 0, 1])


def weights_of(loss):
    made = Reweighting.of(loss, (CODE, TALK), SOURCES_OF)
    assert made is not None
    return [one.tolist() for one in made.weights(np.arange(3), WEIGHTS)]


def test_the_picture_of_example_means():
    """As the docstring of weights draws them: a first token is no target."""
    assert weights_of(Loss(reduction="example_mean")) == [
        [0, 0.5, 0.5],
        [2.25, 0.25, 0.75],
        [0] * 3,
    ]


def test_a_source_counts_by_its_factor():
    loss = Loss(source_weights={"code": 2.0})
    assert weights_of(loss) == [[0, 2, 2], [18, 2, 6], [0] * 3]
    both = Loss(source_weights={"code": 2.0, "talk": 0.5}, reduction="example_mean")
    assert weights_of(both)[0] == [0, 1, 1]
    made = Reweighting.of(Loss(source_weights={"talk": 0.5}), (CODE, TALK), SOURCES_OF[::-1])
    assert made is not None
    assert [one.tolist() for one in made.weights(np.array([2, 0]), WEIGHTS[:2])] == [
        [0, 1, 1],
        [4.5, 0.5, 1.5],
    ]


def test_nothing_is_made_where_nothing_is_asked_for():
    assert Reweighting.of(Loss(label_smoothing=0.1), (CODE, TALK), SOURCES_OF) is None


def test_a_source_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match=r"\{'cod': 2.0\}: no source .* there are code, talk"):
        reweight.source_factors(Loss(source_weights={"cod": 2.0}), (CODE, TALK))
    with pytest.raises(ConfigError, match=r"\{'code': 2.0\}: is the only source"):
        reweight.source_factors(Loss(source_weights={"code": 2.0}), (CODE,))


def test_rows_have_both_weights_and_the_examples_of_their_tokens():
    ids = [np.arange(5, 8, dtype=np.int32), np.arange(8, 11, dtype=np.int32)]
    plan = packing.PackPlan(np.array([1, 0]), np.array([0, 2]))
    made = Reweighting.of(Loss(reduction="example_mean"), (CODE, TALK), SOURCES_OF)
    rows = packing.build_rows(
        lambda at: [(ids[i], WEIGHTS[i]) for i in at],
        plan,
        [-1, 0],
        8,
        reweighting=made,
        numbered=True,
    )
    assert rows["weights_BT"].tolist() == [[0] * 8, [1, 3, 0, 1, 1, 0, 0, 0]]
    own = [[0] * 8, [0.25, 0.75, 0, 0.5, 0.5, 0, 0, 0]]
    assert rows["objective_weights_BT"].tolist() == own
    assert rows["examples_BT"].tolist() == [[0] * 8, [1, 1, 1, 0, 0, 0, 0, 0]]
