"""The name decides the optimizer, and weight decay leaves the norms alone."""

import dataclasses
import typing
from typing import Any

import jax
import numpy as np
import pytest

from jaxsft import config
from jaxsft.errors import ConfigError
from jaxsft.training import optim, treatment


def test_weight_decay_spares_the_norms():
    assert not treatment.decays("layers.attention_norm.scale_D")
    assert not treatment.decays("final_norm.scale_D")
    assert not treatment.decays("layers.moe.gate_bias_EF")
    assert treatment.decays("layers.attention.q_DNH")
    assert treatment.decays("embedding_VD")


def test_each_name_of_the_config_has_an_optimizer_and_its_own_fields():
    names = typing.get_args(typing.get_type_hints(config.Optim)["name"])
    assert set(names) == optim.OPTIMIZERS.keys()
    fields = {field.name for field in dataclasses.fields(config.Optim)}
    assert all(kind.reads < fields for kind in optim.OPTIMIZERS.values())


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("sgd", "b2", 0.5),
        ("adamw", "lion_b2", 0.5),
        ("lion", "sgd_momentum", 0.5),
        ("adafactor", "b1", 0.5),
        ("adamw_8bit", "first_moment_dtype", "bfloat16"),
        ("sgd", "muon_momentum", 0.5),
    ],
)
def test_what_only_others_read_is_refused(name, field, value):
    with pytest.raises(ConfigError, match=f"config.optim.{field}={value}: {name} does not read it"):
        optim.make_optimizer(config.Optim(peak_lr=1.0, name=name, **{field: value}))


def test_an_unknown_name_is_refused_with_those_that_there_are():
    name: Any = "adamv"
    with pytest.raises(ConfigError, match="name=adamv: expected one of adafactor, adamw, "):
        optim.make_optimizer(config.Optim(peak_lr=1.0, name=name))


MANY = {"many_DF": jax.ShapeDtypeStruct((512, 2048), np.float32)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 8),
        ({"first_moment_dtype": "bfloat16"}, 6),
        ({"name": "adamw_8bit"}, 2 + 2 * 4 * (512 + 2048) / (512 * 2048)),
        ({"name": "adafactor"}, 4 * (512 + 2048) / (512 * 2048)),
        ({"name": "lion"}, 4),
        ({"name": "muon"}, 4),
        ({"name": "sgd"}, 4),
        ({"name": "sgd", "sgd_momentum": 0.0}, 0),
    ],
    ids=str,
)
def test_the_plan_counts_what_the_optimizer_keeps(fields, expected):
    one = optim.make_optimizer(config.Optim(peak_lr=1.0, **fields))
    assert one.bytes_per_parameter(MANY) == expected
    assert one.bytes_per_parameter({"embedding_VD": MANY["many_DF"]}) == (
        8 if fields == {"name": "muon"} else expected
    )
