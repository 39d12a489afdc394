"""The name decides the optimizer, and weight decay leaves the norms alone."""

import dataclasses
import typing
from typing import Any

import optax
import pytest
import tiny

from jaxsft import config
from jaxsft.errors import ConfigError
from jaxsft.training import adamw, optim, optimizer


def test_weight_decay_spares_the_norms():
    mask = adamw.decayed(tiny.host_params())
    assert mask["layers"]["attention_norm"]["scale_D"] is False
    assert mask["final_norm"]["scale_D"] is False
    assert mask["layers"]["attention"]["q_DNH"] is True
    assert mask["embedding_VD"] is True


def test_each_name_of_the_config_has_an_optimizer_and_its_own_fields():
    names = typing.get_args(typing.get_type_hints(config.Optim)["name"])
    assert set(names) == optim.OPTIMIZERS.keys()
    fields = {field.name for field in dataclasses.fields(config.Optim)}
    assert all(kind.reads < fields for kind in optim.OPTIMIZERS.values())


def test_the_name_decides_and_what_only_others_read_is_refused(monkeypatch):
    made = optimizer.elementwise(optax.identity())
    monkeypatch.setitem(optim.OPTIMIZERS, "sgd", optim.Kind(lambda _: made, frozenset()))
    one: Any = {"peak_lr": 1.0, "name": "sgd"}
    assert optim.make_optimizer(config.Optim(**one)) is made
    assert made.bytes_per_parameter() == 0
    assert optim.make_optimizer(config.Optim(peak_lr=1.0, b2=0.5)) is not made
    with pytest.raises(ConfigError, match=r"config\.optim\.b2=0\.5: sgd does not read it"):
        optim.make_optimizer(config.Optim(**one, b2=0.5))


def test_an_unknown_name_is_refused_with_those_that_there_are():
    name: Any = "adamv"
    with pytest.raises(ConfigError, match="config.optim.name=adamv: expected one of adamw"):
        optim.make_optimizer(config.Optim(peak_lr=1.0, name=name))


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 8), ("bfloat16", 6)])
def test_the_plan_counts_both_moments_of_adam(dtype, expected):
    one = optim.make_optimizer(config.Optim(peak_lr=1.0, first_moment_dtype=dtype))
    assert one.bytes_per_parameter() == expected
