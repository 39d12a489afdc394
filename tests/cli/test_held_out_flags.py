"""What can be held out, from the command line and in a config."""

import dataclasses

import pytest

from jaxsft.cli import flags
from jaxsft.config import (
    Checkpoint,
    Config,
    Data,
    Eval,
    Model,
    Optim,
    Source,
    Train,
    validate,
)
from jaxsft.errors import ConfigError


def config(**data) -> Config:
    return Config(
        model=Model(source="m"),
        data=Data(train=(Source(path="a"),), sequence_length=8, **data),
        optim=Optim(peak_lr=1e-5),
        train=Train(batch_size=2, steps=1),
    )


@pytest.mark.parametrize(
    ("text", "value"), [("0.05", 0.05), ("200", 200), ("None", None), ("1", 1)]
)
def test_a_share_or_a_number_of_rows(text, value):
    changed = flags.override(config(), "data.holdout", text)
    assert changed.data.holdout == value and type(changed.data.holdout) is type(value)
    validate(changed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1.0", "config.data.holdout=1.0: a share must lie between 0 and 1"),
        ("0.0", "config.data.holdout=0.0: a share must lie between 0 and 1"),
        ("nan", "config.data.holdout=nan: a share must lie between 0 and 1"),
        ("0", "config.data.holdout=0: must be 1 row or more"),
        ("-3", "config.data.holdout=-3: must be 1 row or more"),
    ],
)
def test_others_are_refused(text, said):
    with pytest.raises(ConfigError) as error:
        validate(flags.override(config(), "data.holdout", text))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["0", "1.5", "nan", "-0.5"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ConfigError, match=rf"config.data.share={float(text):g}.*: must be more"):
        validate(flags.override(config(), "data.share", text))
    validate(flags.override(config(), "data.share", "0.25"))


def test_how_duplicates_go_is_one_of_three():
    with pytest.raises(ConfigError, match="duplicates=drop: .*'keep', 'drop_exact', 'drop_near'"):
        flags.override(config(), "data.duplicates", "drop")


def test_prompts_may_be_of_what_is_held_out():
    asks = config(holdout=0.1)
    validate(dataclasses.replace(asks, eval=dataclasses.replace(asks.eval, prompts=2)))


BEST = Checkpoint(best="eval/holdout/loss")


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"checkpoint": Checkpoint(save_every_steps=5, save_times_per_epoch=2)},
            "config.checkpoint: save_every_steps=5 and save_times_per_epoch=2; set one",
        ),
        (
            {"eval": Eval(every_steps=5, times_per_epoch=2)},
            "config.eval: every_steps=5 and times_per_epoch=2; set one",
        ),
        ({"eval": Eval(times_per_epoch=0)}, "config.eval.times_per_epoch=0: must be"),
        (
            {"checkpoint": Checkpoint(save_times_per_epoch=-1)},
            "config.checkpoint.save_times_per_epoch=-1: must be",
        ),
        ({"eval": Eval(early_stopping=3)}, "config.eval.early_stopping=3: needs the figure"),
        (
            {"eval": Eval(early_stopping=0, every_steps=1), "checkpoint": BEST},
            "config.eval.early_stopping=0: must be",
        ),
        (
            {"eval": Eval(min_improvement=-0.1)},
            "config.eval.min_improvement=-0.1: must be finite, and 0 or more",
        ),
        (
            {"checkpoint": Checkpoint(best_mode="max")},
            "config.checkpoint.best_mode=max: config.checkpoint.best names no figure",
        ),
        ({"checkpoint": BEST}, "best=eval/holdout/loss: nothing is evaluated before the end"),
    ],
)
def test_what_does_not_fit_together_is_refused(sections, said):
    with pytest.raises(ConfigError) as error:
        validate(dataclasses.replace(config(), **sections))
    assert said in str(error.value)


def test_what_fits_together_is_not():
    once = Eval(times_per_epoch=2, early_stopping=3, min_improvement=0.01)
    validate(dataclasses.replace(config(), eval=once, checkpoint=BEST))
