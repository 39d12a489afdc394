"""A kernel is taken only where it can do what is asked, and after it has shown that it does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from jaxsft.errors import ConfigError
from jaxsft.kernels.attention import attend, selftest
from jaxsft.kernels.attention import full as attention_full
from jaxsft.kernels.attention.choose import choose, refusal
from jaxsft.kernels.attention.selftest import Use

GPU = Use(
    platform="gpu",
    length=256,
    query_length=256,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    dtype="bfloat16",
)
TPU = dataclasses.replace(GPU, platform="tpu", query_length=128)
CPU = dataclasses.replace(GPU, platform="cpu", dtype="float32")
sound = attention_full.attend


@pytest.fixture
def here():
    return jax.devices()[0]


def without_segments(q, k, v, q_segments, kv_segments, *rest, **options):
    ones = jnp.ones_like(q_segments), jnp.ones_like(kv_segments)
    return sound(q, k, v, *ones, *rest, **options)


def wrong_gradient(q, k, v, *rest, **options):
    """As of a kernel that forgets the values' gradient."""
    return sound(q, k, jax.lax.stop_gradient(v), *rest, **options)


def not_a_number(*arrays, **options):
    return sound(*arrays, **options) * jnp.nan


def heads_mixed_up(q, k, v, *rest, **options):
    return sound(q, k[:, :, ::-1], v[:, :, ::-1], *rest, **options)


def raises(*arrays, **options):
    raise NotImplementedError("no engine\nand much more")


@pytest.mark.parametrize(
    ("name", "kernel", "why"),
    [
        ("cudnn", without_segments, "differs from the reference by"),
        ("cudnn", wrong_gradient, "differs from the reference by 1"),
        ("triton", not_a_number, "differs from the reference by nan"),
        ("triton", heads_mixed_up, "differs from the reference by"),
        ("triton", raises, "NotImplementedError: no engine$"),
    ],
)
def test_a_wrong_kernel_is_refused(monkeypatch, here, name, kernel, why):
    monkeypatch.setitem(attend.BACK_ENDS, name, kernel)
    with pytest.raises(ConfigError, match=f"config.model.attention={name}: its test .*{why}"):
        choose(name, GPU, here)


def test_auto_takes_the_first_that_is_right_and_says_why_not_the_others(monkeypatch, here):
    monkeypatch.setitem(attend.BACK_ENDS, "cudnn", raises)
    monkeypatch.setitem(attend.BACK_ENDS, "triton", sound)
    name, reason = choose("auto", GPU, here)
    assert name == "triton"
    assert "not cudnn: its test ended with NotImplementedError: no engine; the fastest" in reason
    assert "tested: differs from the reference by 0.00" in reason
    monkeypatch.setitem(attend.BACK_ENDS, "triton", without_segments)
    name, reason = choose("auto", GPU, here)
    assert name == "blocked" and "not triton: its test differs" in reason


def test_the_queries_of_a_split_row_are_tested_in_their_place(monkeypatch, here):
    """A kernel that takes the first query for the row's first is seen."""

    def at_the_start(q, k, v, q_segments, kv_segments, first_query, **options):
        return sound(q, k, v, q_segments, kv_segments, 0, **options)

    monkeypatch.setitem(attend.BACK_ENDS, "splash", sound)
    assert choose("splash", TPU, here)[0] == "splash"
    monkeypatch.setitem(attend.BACK_ENDS, "splash", at_the_start)
    with pytest.raises(ConfigError, match="splash: its test differs"):
        choose("splash", TPU, here)


def test_long_rows_are_tested_in_part(monkeypatch, here):
    seen = []

    def record(q, k, *rest, **options):
        seen.append((q.shape[1], k.shape[1]))
        return sound(q, k, *rest, **options)

    monkeypatch.setattr(selftest, "MAX_LENGTH", 192)
    monkeypatch.setitem(attend.BACK_ENDS, "splash", record)
    choose("splash", TPU, here)
    assert set(seen) == {(128, 192)}


def test_windows_caps_and_sinks_are_tested(monkeypatch, here):
    full = dataclasses.replace(
        TPU, windows=(20,), soft_cap=5.0, sinks=True, scale=0.2, dtype="float32"
    )
    monkeypatch.setitem(attend.BACK_ENDS, "splash", sound)
    assert choose("splash", full, here)[0] == "splash"
    for lost in ("window", "soft_cap", "sinks_N", "scale"):

        def forgets(*arrays, lost=lost, **options):
            return sound(*arrays, **(options | {lost: None}))

        monkeypatch.setitem(attend.BACK_ENDS, "splash", forgets)
        with pytest.raises(ConfigError, match="splash: its test differs"):
            choose("splash", full, here)


def test_where_no_device_is_nothing_is_tested_and_the_reason_says_so():
    assert choose("auto", TPU, None) == (
        "splash",
        "the fastest that works on tpu, not tested: no such device here",
    )
    name, reason = choose("auto", GPU, None)
    assert name == "triton" and "not cudnn: jax asks the GPU itself" in reason


@pytest.mark.parametrize(
    ("name", "use", "why"),
    [
        ("splash", CPU, "runs on TPU only, and this is cpu"),
        ("triton", TPU, "runs on GPU only, and this is tpu"),
        ("splash", dataclasses.replace(TPU, length=8100), "multiple of 128 .* 128 of 8100"),
        ("cudnn", dataclasses.replace(GPU, query_length=64), "a row split over devices"),
        ("cudnn", dataclasses.replace(GPU, sinks=True), "sinks"),
        ("triton", dataclasses.replace(GPU, soft_cap=9.0), "soft caps"),
        ("triton", dataclasses.replace(GPU, windows=(8,)), "sliding windows"),
        ("cudnn", dataclasses.replace(GPU, windows=(8, 9)), "layers of different windows"),
        ("cudnn", dataclasses.replace(GPU, dtype="float32"), "dtype float32"),
        ("triton", dataclasses.replace(GPU, length=200, query_length=200), "rows of 200 tokens"),
        ("flash", GPU, "expected auto or splash, cudnn, triton, blocked, xla"),
    ],
)
def test_what_a_back_end_cannot_do_is_an_error(name, use, why):
    with pytest.raises(ConfigError, match=f"config.model.attention={name}: .*{why}"):
        choose(name, use, None)


def test_plain_back_ends_need_no_test_and_auto_on_cpu_takes_them_by_length():
    assert choose("auto", CPU, None)[0] == choose("blocked", TPU, None)[0] == "blocked"
    short = functools.partial(dataclasses.replace, CPU, length=128)
    assert choose("auto", short(), None)[0] == choose("xla", GPU, None)[0] == "xla"
    assert refusal("cudnn", dataclasses.replace(GPU, windows=(8,))) is None
