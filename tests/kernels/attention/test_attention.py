"""Attention's options against their definitions, query by query in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.attention.attend import _kv_heads_of, attend, local_heads
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


@pytest.mark.parametrize(
    ("static", "sinks_N", "window", "why"),
    [
        ({"sinks": True}, None, None, "sinks"),
        ({}, SINKS, None, "sinks"),
        ({"windows": (3,)}, None, None, "window"),
        ({}, None, 3, "window"),
    ],
)
def test_the_form_and_what_is_given_say_the_same(static, sinks_N, window, why):
    kv = KeysAndValues(jnp.asarray(KEYS), jnp.asarray(VALUES), sinks_N)
    visibility = Visibility(jnp.asarray(SEGMENTS), jnp.asarray(SEGMENTS), 0, window)
    with pytest.raises(AssertionError, match=why):
        attend(jnp.asarray(Q), kv, visibility, AttentionForm(scale=1.0, **static))


def test_what_a_mesh_does_not_divide_is_whole_on_each_device():
    """One row of 11 tokens, with one head, where each is to be split in two."""
    q, keys, values = (jnp.asarray(array[:1, :11, :1]) for array in (Q, KEYS, VALUES))
    segments = jnp.asarray(SEGMENTS[:1, :11])
    form = AttentionForm(scale=H**-0.5, back_end="blocked")
    with jax.set_mesh(mesh.make_mesh(config.Mesh(fsdp=2, context=2, tensor=2))):
        kv, visibility = KeysAndValues(keys, values), Visibility(segments, segments)
        out = jax.device_get(jax.jit(attend, static_argnums=3)(q, kv, visibility, form))
    for t in range(11):
        np.testing.assert_allclose(out[0, t, 0], by_hand(0, t, 0), 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "parts", "expected"),
    [
        (4, 4, 1, (4, 4)),
        (8, 4, 2, (4, 2)),
        (8, 2, 4, (2, 1)),
        (6, 3, 2, (3, 3)),
        (12, 2, 3, (4, 2)),
    ],
)
def test_a_part_of_the_heads_keeps_the_keys_that_they_use(heads, kv_heads, parts, expected):
    """Each key-value head for as many query heads: 3 of 6 in groups of 2 use [0 0 1] or [1 2 2]."""
    assert local_heads(heads, kv_heads, parts) == expected
    local, local_kv = expected
    group = heads // kv_heads
    used = [_kv_heads_of(jnp.int32(part), local, group) for part in range(parts)]
    every = np.repeat(np.concatenate(used), local // local_kv)
    np.testing.assert_array_equal(every, np.arange(heads) // group)
