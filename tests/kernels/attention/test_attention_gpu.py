"""What can be said of cuDNN without a GPU; the self-test says the rest on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from jaxsft.kernels.attention import cudnn, full
from jaxsft.kernels.attention.form import KeysAndValues, Visibility
from tests.kernels.attention import attention_cases as cases


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


@pytest.fixture
def calls(monkeypatch):
    """The shapes of keys and of lengths, with the definition of its arguments in cuDNN's place."""
    calls = []

    def by_spans(q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type, **rest):
        assert mask_type == fused_attention_stablehlo.MaskType.PADDING_CAUSAL
        calls.append((k.shape, q_seqlen.shape))
        window = rest.pop("sliding_window_length")
        assert not rest
        form = cases.form(scale=scale, windows=() if window is None else (window,))
        segments = (
            segments_of(q.shape[1], q_offsets, q_seqlen),
            segments_of(k.shape[1], kv_offsets, kv_seqlen),
        )
        return full.attend(q, KeysAndValues(k, v), Visibility(*segments, window=window), form)

    monkeypatch.setattr(fused_attention_stablehlo, "dot_product_attention", by_spans)
    return calls


def segments_of(length, starts, lengths):
    """The number of the span that holds each position, from 1."""
    places, starts, lengths = jnp.arange(length)[None, :, None], starts[:, None, :-1], lengths
    inside = (places >= starts) & (places < starts + lengths[:, None])
    return jnp.sum(inside * jnp.arange(1, 1 + lengths.shape[1])[None, None], axis=-1)


@pytest.mark.parametrize(("allowed", "windows"), [(16, (9,)), (16, ()), (3, ())])
def test_cudnn_gets_each_segment_and_what_does_not_fit_is_blocked(
    monkeypatch, calls, allowed, windows
):
    monkeypatch.setattr(cudnn, "max_segments", lambda length: allowed)
    form = cases.form(scale=0.3, windows=windows)
    cases.assert_equals_reference(cudnn.attend, cases.packed(length=64), form)
    assert calls[0][1] == (2, allowed)


@pytest.mark.parametrize(
    ("version", "kv_heads"), [((0, 11, 0), 6), ((0, 11, 1), 2), ((1, 0, 0), 2)]
)
def test_cudnn_gets_a_key_head_for_each_query_head_where_jax_needs_it(
    monkeypatch, calls, version, kv_heads
):
    monkeypatch.setattr(jax, "__version_info__", version)
    arrays, segments = cases.packed(length=2560, heads=6).arrays, jnp.ones((2, 2560), jnp.int32)
    kv, seen = KeysAndValues(arrays["k"], arrays["v"]), Visibility(segments, segments)
    jax.eval_shape(lambda q: cudnn.attend(q, kv, seen, cases.form()), arrays["q"])
    assert calls == [((2, 2560, kv_heads, 16), (2, 20))]  # a segment for each 128 tokens


def test_a_short_row_may_have_16_segments():
    assert cudnn.max_segments(100) == cudnn.max_segments(2048) == 16


@pytest.mark.parametrize("static", [{"soft_cap": 3.0}, {"sinks": True}, {"windows": (3, 5)}])
def test_what_was_refused_does_not_come_to_a_kernel(static):
    with pytest.raises(AssertionError, match="refused before"):
        cases.outcome(cudnn.attend, cases.packed(length=128), cases.form(**static))
