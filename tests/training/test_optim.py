"""Schedules end where the config says, and weight decay leaves the norms alone."""

import dataclasses
import typing
from typing import Any

import numpy as np
import optax
import pytest
import tiny

from jaxsft import config
from jaxsft.errors import ConfigError
from jaxsft.training import adamw, optim, optimizer
from jaxsft.training.schedule import make_schedule


def rates(num_steps, **fields):
    schedule = make_schedule(config.Optim(peak_lr=1.0, **fields), num_steps)
    return np.array([schedule(step) for step in range(num_steps)])


def test_cosine_rises_to_the_peak_and_ends_at_the_final_fraction():
    values = rates(20, warmup_steps=4, final_lr_fraction=0.1)
    np.testing.assert_allclose(values[:4], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(values[-1], 0.1, rtol=1e-6)
    assert np.all(np.diff(values[3:]) < 0)


def test_the_first_step_already_learns():
    assert rates(10)[0] > 0.9
    assert rates(10, warmup_steps=5)[0] == pytest.approx(0.2)


def test_linear_and_constant():
    np.testing.assert_allclose(
        rates(4, schedule="linear", final_lr_fraction=0.0), [0.75, 0.5, 0.25, 0], atol=1e-7
    )
    np.testing.assert_allclose(rates(3, schedule="constant"), [1, 1, 1])


def test_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="warmup_steps=10: the run has 10 steps"):
        rates(10, warmup_steps=10)


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
