"""Packed rows and the comparison of an attention back end with the reference, for tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.kernels.attention import full
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Visibility


@dataclasses.dataclass(frozen=True)
class Case:
    arrays: dict[str, jax.Array]  # q, k, v and sinks
    segments_BT: jax.Array


def packed(*, length, heads=4, kv_heads=2, head_dim=16, dtype="float32", seed=0) -> Case:
    """A row of many segments with padding at its end, and one of two segments."""
    rng = np.random.default_rng(seed)
    ends = np.linspace(0, length, 6)[1:-1].astype(int) + rng.integers(-2, 3, 4)
    segments_BT = np.ones((2, length), np.int32)
    segments_BT[0] += np.searchsorted(ends, np.arange(length), side="right")
    segments_BT[0, ends[-1] + 1 :] = 0
    segments_BT[1, length // 3 :] = 2

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    arrays = {
        "q": array(2, length, heads, head_dim),
        "k": array(2, length, kv_heads, head_dim),
        "v": array(2, length, kv_heads, head_dim),
        "sinks": array(heads).astype(jnp.float32),
    }
    return Case(arrays, jnp.asarray(segments_BT))


def visible(q_segments_T, segments_S, first_query, window):
    """By the definition, pair by pair; bool [T, S]."""
    distance_TS = first_query + np.arange(len(q_segments_T))[:, None] - np.arange(len(segments_S))
    seen_TS = (distance_TS >= 0) & (q_segments_T[:, None] == segments_S[None])
    return seen_TS if window is None else seen_TS & (distance_TS < window)


def form(*, windows=(), **static):
    return AttentionForm(**({"scale": 0.25} | static), windows=windows)


def outcome(attend, case: Case, static=None, window=None):
    """Output, and gradients of an uneven function of it, by name.

    Args:
        window: of the layer; None: the first of the form's.
    """
    static = form() if static is None else static
    window = static.windows[0] if window is None and static.windows else window
    visibility = Visibility(case.segments_BT, case.segments_BT, window=window)

    def loss(arrays):
        sinks_N = arrays["sinks"] if static.sinks else None
        kv = KeysAndValues(arrays["k"], arrays["v"], sinks_N)
        out = attend(arrays["q"], kv, visibility, static)
        return jnp.sum(jnp.sin(3 * out.astype(jnp.float32))), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(case.arrays)
    if not static.sinks:
        del gradients["sinks"]
    return {"out": out} | {f"d_{name}": leaf for name, leaf in gradients.items()}


def assert_equals_reference(attend, case: Case, static=None, window=None, *, allowed=1e-5):
    """To `allowed` of each array's greatest value or of 1; the reference runs in float32."""
    exact = dataclasses.replace(
        case, arrays=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), case.arrays)
    )
    expected = outcome(full.attend, exact, static, window)
    for name, actual in outcome(attend, case, static, window).items():
        difference = np.abs(np.asarray(actual, np.float32) - expected[name]).max()
        relative = difference / max(np.abs(expected[name]).max(), 1)
        assert relative <= allowed, f"{name} differs by {relative:.2g}"
