"""A kernel is taken only where it can do what is asked, and after it has shown that it does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.errors import ConfigError
from jaxsft.kernels.attention import attend, selftest
from jaxsft.kernels.attention import full as attention_full
from jaxsft.kernels.attention.choose import choose, refusal
from jaxsft.kernels.attention.form import AttentionForm, Use

FORM = AttentionForm(scale=0.25)
GPU = Use(
    form=dataclasses.replace(FORM, max_segments=4),
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


def with_form(use, **changes):
    return dataclasses.replace(use, form=dataclasses.replace(FORM, **changes))


def of_length(use, length):
    return dataclasses.replace(use, length=length, query_length=length)


@pytest.fixture
def here():
    return jax.devices()[0]


def without_segments(q, kv, visibility, form):
    q_segments, kv_segments = visibility.q_segments_BT, visibility.kv_segments_BS
    ones = {
        "q_segments_BT": jnp.ones_like(q_segments),
        "kv_segments_BS": jnp.ones_like(kv_segments),
    }
    return sound(q, kv, dataclasses.replace(visibility, **ones), form)


def wrong_gradient(q, kv, visibility, form):
    """As of a kernel that forgets the values' gradient."""
    fixed = dataclasses.replace(kv, v_BSKH=jax.lax.stop_gradient(kv.v_BSKH))
    return sound(q, fixed, visibility, form)


@jax.custom_vjp
def one_gradient_for_all(out):
    return out


one_gradient_for_all.defvjp(
    lambda out: (out, None), lambda _, d_out: (jnp.broadcast_to(d_out.mean(), d_out.shape),)
)


def evened_gradient(q, kv, visibility, form):
    """As of a kernel that takes the output's gradient to be the same everywhere."""
    return one_gradient_for_all(sound(q, kv, visibility, form))


def not_a_number(q, kv, visibility, form):
    return sound(q, kv, visibility, form) * jnp.nan


def heads_mixed_up(q, kv, visibility, form):
    turned = dataclasses.replace(kv, k_BSKH=kv.k_BSKH[:, :, ::-1], v_BSKH=kv.v_BSKH[:, :, ::-1])
    return sound(q, turned, visibility, form)


def raises(q, kv, visibility, form):
    raise NotImplementedError("no engine\nand much more")


def raises_at_length(q, kv, visibility, form):
    raise ValueError("x" * 300)


@pytest.mark.parametrize(
    ("name", "kernel", "why"),
    [
        ("cudnn", without_segments, "differs from the reference by"),
        ("cudnn", wrong_gradient, "differs from the reference by 1"),
        ("cudnn", evened_gradient, "differs from the reference by"),
        ("triton", not_a_number, "differs from the reference by nan"),
        ("triton", heads_mixed_up, "differs from the reference by"),
        ("triton", raises, "NotImplementedError: no engine$"),
        ("triton", raises_at_length, "ValueError: x{200}$"),
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

    def at_the_start(q, kv, visibility, form):
        return sound(q, kv, dataclasses.replace(visibility, first_query=0), form)

    monkeypatch.setitem(attend.BACK_ENDS, "splash", sound)
    assert choose("splash", TPU, here)[0] == "splash"
    monkeypatch.setitem(attend.BACK_ENDS, "splash", at_the_start)
    with pytest.raises(ConfigError, match="splash: its test differs"):
        choose("splash", TPU, here)


@pytest.mark.parametrize("length", [128, 1024, 8192])
def test_the_tested_rows_are_of_three_kinds(length):
    """Segments with padding behind them, a single one, and many; no block ends where they do."""
    segments = np.asarray(selftest._example(of_length(GPU, length))[1])
    begins = [np.flatnonzero(np.diff(row)) + 1 for row in segments]
    assert [list(row[[0, *begun]]) for row, begun in zip(segments, begins, strict=True)] == [
        [1, 2, 3, 4, 0],
        [1],
        list(range(1, selftest._MANY + 1)),
    ]
    assert np.all(begins[0] % 8)
    sizes = np.diff(begins[2], prepend=0, append=length)
    assert np.ptp(sizes) <= 1


def test_long_rows_are_tested_in_part(monkeypatch, here):
    seen = []

    def record(q, kv, visibility, form):
        seen.append((q.shape[1], kv.k_BSKH.shape[1]))
        return sound(q, kv, visibility, form)

    monkeypatch.setattr(selftest, "MAX_LENGTH", 192)
    monkeypatch.setitem(attend.BACK_ENDS, "splash", record)
    choose("splash", TPU, here)
    assert set(seen) == {(128, 192)}


@pytest.mark.parametrize(("name", "use"), [("splash", TPU), ("cudnn", GPU), ("triton", GPU)])
def test_a_row_is_not_cut_to_one_that_is_refused(name, use):
    assert refusal(name, of_length(use, selftest.MAX_LENGTH)) is None


def test_windows_caps_and_sinks_are_tested(monkeypatch, here):
    form = AttentionForm(windows=(20,), soft_cap=5.0, sinks=True, scale=0.2)
    full = dataclasses.replace(TPU, form=form, dtype="float32")
    monkeypatch.setitem(attend.BACK_ENDS, "splash", sound)
    assert choose("splash", full, here)[0] == "splash"
    lost = [(1, {"sinks_N": None}), (2, {"window": None}), (3, {"soft_cap": None})]
    for place, without in [*lost, (3, {"scale": 0.25})]:

        def forgets(*arguments, place=place, without=without):
            arguments = list(arguments)
            arguments[place] = dataclasses.replace(arguments[place], **without)
            return sound(*arguments)

        monkeypatch.setitem(attend.BACK_ENDS, "splash", forgets)
        with pytest.raises(ConfigError, match="splash: its test differs"):
            choose("splash", full, here)


def test_where_no_device_is_nothing_is_tested_and_the_reason_says_so():
    assert choose("auto", TPU, None) == (
        "splash",
        "the fastest that works on tpu, not tested: no such device here",
    )
    name, reason = choose("auto", GPU, None)
    assert (name, reason) == (
        "cudnn",
        "the fastest that works on gpu, not tested: no such device here",
    )


@pytest.mark.parametrize(
    ("name", "use", "why"),
    [
        ("splash", CPU, "runs on TPU only, and this is cpu"),
        ("triton", TPU, "runs on GPU only, and this is tpu"),
        ("splash", dataclasses.replace(TPU, length=8100), "multiple of 128 .* 128 of 8100$"),
        ("splash", dataclasses.replace(TPU, query_length=100), "multiple of 128 .* 100 of 256$"),
        ("splash", dataclasses.replace(TPU, length=200, query_length=200), "keys, not 200$"),
        ("cudnn", dataclasses.replace(GPU, query_length=64), "a row split over devices"),
        ("triton", dataclasses.replace(GPU, query_length=128), "a row split over devices"),
        ("cudnn", with_form(GPU, sinks=True), "sinks"),
        ("triton", with_form(GPU, sinks=True), "sinks"),
        ("cudnn", with_form(GPU, soft_cap=9.0), "soft caps"),
        ("triton", with_form(GPU, soft_cap=9.0), "soft caps"),
        ("cudnn", with_form(GPU, windows=(8, 9)), "layers of different windows"),
        ("cudnn", dataclasses.replace(GPU, dtype="float32"), "dtype float32"),
        ("triton", dataclasses.replace(GPU, length=200, query_length=200), "rows of 200 tokens"),
        ("triton", dataclasses.replace(GPU, head_dim=129), "heads of 129, more than 128"),
        ("triton", dataclasses.replace(GPU, dtype="float32"), "dtype float32"),
        ("flash", GPU, "expected auto or splash, cudnn, triton, blocked, xla"),
        ("Xla", GPU, "expected auto or splash"),
    ],
)
def test_what_a_back_end_cannot_do_is_an_error(name, use, why):
    with pytest.raises(ConfigError, match=f"config.model.attention={name}: .*{why}"):
        choose(name, use, None)


def test_plain_back_ends_need_no_test_and_auto_on_cpu_takes_them_by_length():
    assert choose("auto", CPU, None)[0] == choose("blocked", TPU, None)[0] == "blocked"
    lengths = {n: choose("auto", of_length(CPU, n), None)[0] for n in (100, 128, 129)}
    assert lengths == {100: "xla", 128: "xla", 129: "blocked"}
    assert choose("xla", GPU, None)[0] == "xla"
    assert choose("auto", of_length(GPU, 128), None)[0] == "cudnn"


def test_what_a_kernel_can_just_do_is_not_refused():
    assert refusal("cudnn", with_form(GPU, windows=(8,))) is None
    assert refusal("triton", dataclasses.replace(GPU, head_dim=128)) is None
    assert refusal("triton", with_form(GPU, windows=(8, 9))) is None
