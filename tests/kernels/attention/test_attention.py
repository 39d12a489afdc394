"""Attention's options against their definitions, query by query in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.kernels.attention.attend import attend
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Visibility

B, T, N, K, H = 2, 12, 4, 2, 8
RNG = np.random.default_rng(0)
Q, KEYS, VALUES = (RNG.normal(size=(B, T, heads, H)).astype(np.float32) * 2 for heads in (N, K, K))
SEGMENTS = np.repeat([[1, 2, 0]] * B, [7, 4, 1], axis=1).astype(np.int32)
SINKS = RNG.normal(size=N).astype(np.float32)


def by_hand(b, t, n, scale=H**-0.5, window=None, soft_cap=None, sinks_N=None):
    seen = [
        s
        for s in range(t + 1)
        if SEGMENTS[b, s] == SEGMENTS[b, t] and (window is None or s > t - window)
    ]
    logits = np.array([Q[b, t, n] @ KEYS[b, s, n // (N // K)] for s in seen]) * scale
    if soft_cap is not None:
        logits = soft_cap * np.tanh(logits / soft_cap)
    shares = np.exp(logits)
    total = shares.sum() + (0 if sinks_N is None else np.exp(sinks_N[n]))
    return shares / total @ VALUES[b, seen, n // (N // K)]


OPTIONS = [
    {},
    {"window": 3},
    {"window": 1},
    {"soft_cap": 1.5},
    {"scale": 0.7},
    {"sinks_N": SINKS},
    {"window": 3, "soft_cap": 2.0, "scale": 0.2, "sinks_N": SINKS},
]


def attended(queries, segments, first=0, *, window=None, sinks_N=None, scale=H**-0.5, **static):
    windows = () if window is None else (window,)
    form = AttentionForm(scale=scale, windows=windows, sinks=sinks_N is not None, **static)
    sinks_N = None if sinks_N is None else jnp.asarray(sinks_N)
    kv = KeysAndValues(jnp.asarray(KEYS), jnp.asarray(VALUES), sinks_N)
    visibility = Visibility(jnp.asarray(segments), jnp.asarray(SEGMENTS), first, window)
    return attend(jnp.asarray(queries), kv, visibility, form)


@pytest.mark.parametrize("back_end", ["xla", "blocked"])
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_definition(back_end, options):
    out = attended(Q, SEGMENTS, back_end=back_end, **options)
    for b, t, n in np.ndindex(B, T, N):
        np.testing.assert_allclose(out[b, t, n], by_hand(b, t, n, **options), 1e-4, 1e-5)


def test_a_window_counts_from_the_query_when_decoding():
    """Query 0 stands at key 6: of its segment it sees 6 and 5, not 4."""
    query, segment = Q[:, 6:7], SEGMENTS[:, 6:7]
    out = attended(query, segment, 6, window=2)
    for b, n in np.ndindex(B, N):
        np.testing.assert_allclose(out[b, 0, n], by_hand(b, 6, n, window=2), 1e-4, 1e-5)
