"""What runs on shares of the rows say together, by the written rules."""

import dataclasses

import numpy as np
import pytest

from jaxsft.config import Config, Data, Eval, Model, Optim, Source, Train
from jaxsft.errors import ConfigError
from jaxsft.evaluation import data_curve
from jaxsft.evaluation.data_curve import Curve, Point
from jaxsft.evaluation.held_out_examples import ExampleSums
from jaxsft.evaluation.scoring.statistics import interval_of_ratio
from jaxsft.evaluation.scoring.table import Rate, ScoreRow
from jaxsft.files import records
from jaxsft.rundir.sample import Sample

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.integers(1, 30, 200).astype(float)
NOISE = RANDOM.normal(0, 0.3, 200)


def point(share, loss, scatter=0.01, count=200, **fields):
    """A run whose examples have this loss, each its own, and some more of its own."""
    own = np.random.default_rng(int(1000 * loss)).normal(0, scatter, 200)
    nll = WEIGHTS * (loss + NOISE + own - np.average(NOISE + own, weights=WEIGHTS))
    sums = ExampleSums(nll[:count].tolist(), WEIGHTS[:count].tolist())
    return Point(share=share, losses={"heldout": sums}, held_out={"heldout": "f"}, **fields)


def said(*losses, **fields):
    shares = (0.25, 0.5, 1.0)[-len(losses) :]
    points = [point(share, loss, **fields) for share, loss in zip(shares, losses, strict=True)]
    (line,) = data_curve.of_points(points).says
    return line


@pytest.mark.parametrize(
    ("losses", "fields", "words"),
    [
        ((2.2, 2.1, 2.0), {}, "still falling: more rows of the same kind likely help"),
        ((2.5, 2.1, 2.0), {}, "likely help, though each doubling gives less than half"),
        ((2.01, 2.005, 2.0), {}, "nearly flat, 0.2% for twice the rows: better or other rows"),
        ((2.1, 2.01, 2.0), {"scatter": 0.9}, "flat, as far as these examples can show: better"),
        ((2.1, 2.0, 2.1), {}, "more of these rows make it worse"),
        ((2.2, 2.1, 2.0), {"count": 19}, "too few examples to say"),
        (
            (2.2, 2.0),
            {},
            "from 50 to 100 % of the rows the held-out loss goes from 2.2000 to 2.0000",
        ),
    ],
)
def test_what_is_said_follows_from_the_last_doubling(losses, fields, words):
    assert words in said(*losses, **fields)


def test_a_gain_is_paired_and_so_surer_than_either_loss():
    less, more = point(0.5, 2.1), point(1.0, 2.0)
    (gain,) = data_curve.of_points([more, less]).gains  # in whichever order
    assert gain.mean == pytest.approx(0.1, rel=1e-6) and gain.low < 0.1 < gain.high
    assert gain.high - gain.low < 0.1 * (more.loss("heldout").high - more.loss("heldout").low)
    assert (gain.from_share, gain.to_share) == (0.5, 1.0)
    assert dataclasses.replace(gain, from_share=0.25).of_a_doubling == pytest.approx(0.05)


def test_sets_that_are_not_the_same_are_not_compared():
    other = dataclasses.replace(point(0.5, 2.1), held_out={"heldout": "g"})
    found = data_curve.of_points([other, point(1.0, 2.0)])
    assert not found.gains and not found.says


def test_scores_are_told_with_the_difference_of_the_last_two():
    def scored(share, rights):
        rate = Rate(sum(rights) / len(rights), 0.0, 1.0, len(rights))
        answers = [
            Sample(source="heldout", row=row, scores={"exact": bool(right)})
            for row, right in enumerate(rights)
        ]
        row = ScoreRow("heldout", "exact", {"after": rate})
        return point(share, 2.0 + share, scores=[row], answers=answers)

    found = data_curve.of_points([scored(0.5, [0] * 10), scored(1.0, [1] * 8 + [0, 0])])
    assert found.says[-1].startswith("heldout exact: 0 -> 0.8 (the last two differ on 10 prompts")
    assert "p = 0.0078" in found.says[-1]  # 2 / 2 ** 8


def test_a_curve_is_read_as_it_was_written(tmp_path):
    curve = data_curve.of_points([point(0.5, 2.1), point(1.0, 2.0)])
    records.write(tmp_path / "c.json", curve)
    again = data_curve.read(tmp_path / "c.json")
    assert records.to_json(again) == records.to_json(curve) and again.point(0.5) is not None
    assert data_curve.of_points(again.points).gains == curve.gains
    assert data_curve.read(tmp_path / "none.json") == Curve()
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(ConfigError, match="bad.json: can't be read: .*; move it away"):
        data_curve.read(tmp_path / "bad.json")


def test_the_interval_of_a_ratio_is_that_of_a_weighted_mean():
    mean = interval_of_ratio((WEIGHTS * NOISE).tolist(), WEIGHTS.tolist())
    assert mean.mean == pytest.approx(np.average(NOISE, weights=WEIGHTS))
    # By the delta method, of a ratio of sums.
    left = WEIGHTS * (NOISE - mean.mean)
    half = 1.96 * np.sqrt(200) * left.std() / WEIGHTS.sum()
    assert mean.high - mean.low == pytest.approx(2 * half, rel=0.1)


def config(**fields):
    data = Data(train=(Source(path="x"),), sequence_length=8, holdout=4)
    return Config(
        model=Model(source="x"),
        data=data,
        optim=Optim(peak_lr=1e-3, warmup_steps=10),
        train=Train(batch_size=1, **(fields or {"epochs": 2})),
        eval=Eval(instruction="Be short.", shots=2),
    )


def test_a_point_trains_as_often_over_its_rows():
    half = data_curve.config_of(config(), 0.5)
    assert half.data.share == 0.5 and half.train.epochs == 2 and half.train.steps is None
    assert half.optim.warmup_steps == 5 and not half.checkpoint.export
    assert half.eval.instruction is None and not half.eval.shots
    assert data_curve.config_of(config(steps=101), 0.25).train.steps == 25
    whole = data_curve.config_of(config(steps=101), 1.0)
    assert whole.data.share is None and whole.train.steps == 101
    of_half = dataclasses.replace(half, train=Train(batch_size=1, epochs=2))
    assert data_curve.config_of(of_half, 0.5).data.share == 0.25
    without = dataclasses.replace(config(), data=dataclasses.replace(half.data, holdout=None))
    with pytest.raises(ConfigError, match="config.data.eval=.*, config.data.holdout=None"):
        data_curve.config_of(without, 0.5)


@pytest.mark.parametrize("texts", [["1"], ["0.5", "0.25"], ["0", "1"], ["0.5", "2"], ["a", "1"]])
def test_shares_rise(texts):
    with pytest.raises(ConfigError, match=f"--shares={','.join(texts)}: expected two shares"):
        data_curve.shares_of(texts)
