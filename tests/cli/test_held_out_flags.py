"""What can be held out, from the command line and in a config."""

import dataclasses

import pytest

from jaxsft.cli import flags
from jaxsft.config import Config, Data, Model, Optim, Source, Train, validate
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


def test_how_duplicates_go_is_one_of_three():
    with pytest.raises(ConfigError, match="duplicates=drop: .*'keep', 'drop_exact', 'drop_near'"):
        flags.override(config(), "data.duplicates", "drop")


def test_prompts_may_be_of_what_is_held_out():
    asks = config(holdout=0.1)
    validate(dataclasses.replace(asks, eval=dataclasses.replace(asks.eval, prompts=2)))
