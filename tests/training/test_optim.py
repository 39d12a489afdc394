"""Schedules end where the config says, and weight decay leaves the norms alone."""

import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.errors import ConfigError
from jaxsft.training import optim


def rates(num_steps, **fields):
    schedule = optim.make_schedule(config.Optim(peak_lr=1.0, **fields), num_steps)
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
    mask = optim.decayed(tiny.host_params())
    assert mask["layers"]["attention_norm"]["scale_D"] is False
    assert mask["final_norm"]["scale_D"] is False
    assert mask["layers"]["attention"]["q_DNH"] is True
    assert mask["embedding_VD"] is True
