"""Time of operations by themselves, and where they come from."""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from bench import profile

from jaxsft.errors import ConfigError


def test_a_loop_is_not_charged_for_its_body():
    """loop 0 to 100 holds a (10 to 40) with b (20 to 25) in it, and a again; c comes after."""
    ms = 1e6
    events = [
        ("a", 50 * ms, 20 * ms),
        ("loop", 0, 100 * ms),
        ("b", 20 * ms, 5 * ms),
        ("a", 10 * ms, 30 * ms),
        ("c", 100 * ms, 7 * ms),
    ]
    own = [(name, round(seconds * 1e3)) for name, seconds in profile.own_seconds(events)]
    assert own == [("loop", 50), ("a", 25), ("b", 5), ("a", 20), ("c", 7)]


def test_the_costliest_operation_of_a_trace_is_the_product(tmp_path):
    """A product of 700 x 700 against a sine of one row."""

    def work(x):
        return jnp.sin(x[0]) + (x @ x)[1]

    step = jax.jit(work)
    x = jnp.ones((700, 700))
    text = step.lower(x).compile().as_text()
    step(x).block_until_ready()
    file = profile.trace(tmp_path, lambda: [step(x).block_until_ready() for _ in range(3)])
    found = profile.costliest(file, text)
    assert "dot_general" in found[0].origin and found[0].count == 3 and found[0].share > 0.5
    assert sum(one.share for one in found) == pytest.approx(1)
    assert found[0].name in profile.table(found).splitlines()[1]


def test_a_profiler_that_leaves_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.profiler, "trace", lambda path: contextlib.nullcontext())
    with pytest.raises(ConfigError, match=f"--profile={tmp_path}: the profiler left no trace"):
        profile.trace(tmp_path, lambda: None)
