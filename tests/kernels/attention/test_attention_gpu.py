"""What can be said of the kernels for GPUs without one; the self-test says the rest on a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.kernels.attention import blocks, cudnn, full, triton
from jaxsft.kernels.attention.form import KeysAndValues, Visibility
from jaxsft.model import remat
from tests.kernels.attention import attention_cases as cases


def test_triton_equals_the_reference():
    run = functools.partial(triton.attend, interpret=True)
    cases.assert_equals_reference(run, cases.packed(length=256), cases.form(scale=0.3))


@pytest.mark.parametrize(("policy", "forwards"), [("save_context", 1), ("full", 2)])
def test_tritons_forward_pass_runs_once_where_its_results_are_kept(policy, forwards):
    case = cases.packed(length=128)
    kv = KeysAndValues(case.arrays["k"], case.arrays["v"])
    seen = Visibility(case.segments_BT, case.segments_BT)

    def layer(q):
        return jnp.sin(triton.attend(q, kv, seen, cases.form(), interpret=True))

    kept = remat.remat(layer, policy, {remat.Part.MIXED: (blocks.RESIDUAL_NAME,)})
    program = str(jax.make_jaxpr(jax.grad(lambda q: kept(q).sum()))(case.arrays["q"]))
    assert program.count("name=mha_forward") == forwards


def test_segments_are_described_by_lengths_and_starts():
    segments = jnp.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 3, 3, 3]], jnp.int32)
    lengths, starts, fits = cudnn._spans(segments, 4)
    np.testing.assert_array_equal(lengths, [[3, 2, 1, -1], [1, 2, 3, -1]])
    np.testing.assert_array_equal(starts, [[0, 3, 5, -1, -1], [0, 1, 3, -1, -1]])
    assert fits


@pytest.mark.parametrize("row", [[1, 2, 3, 4, 5, 0], [1, 1, 2, 1, 1, 1], [0, 0, 1, 1, 2, 2]])
def test_what_the_description_cannot_hold_does_not_fit(row):
    """Too many segments, one in two pieces, padding in front."""
    assert not cudnn._spans(jnp.array([row], jnp.int32), 4)[2]


@pytest.mark.parametrize("allowed", [16, 3])
def test_cudnn_gets_each_segment_and_what_does_not_fit_is_blocked(monkeypatch, allowed):
    """With the definition of its arguments in cuDNN's place."""
    calls = []

    def by_spans(q, k, v, lengths, starts, form):
        places = jnp.arange(q.shape[1])[None, :, None]
        begun = (starts[:, None, :-1] >= 0) & (places >= starts[:, None, :-1])
        segments = jnp.sum(begun, axis=-1)
        calls.append(lengths.shape)
        return full.attend(q, KeysAndValues(k, v), Visibility(segments, segments), form)

    monkeypatch.setattr(cudnn, "_packed", by_spans)
    monkeypatch.setattr(cudnn, "max_segments", lambda length: allowed)
    cases.assert_equals_reference(cudnn.attend, cases.packed(length=64))
    assert calls[0] == (2, allowed)
