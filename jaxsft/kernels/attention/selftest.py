"""Whether a back end of attention computes attention, on a run's own shapes and device.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, H: head_dim.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.kernels.attention import blocked
from jaxsft.kernels.attention.form import KeysAndValues, Use, Visibility

ALLOWED = 2e-2  # relative, by norms: bfloat16 differs from float32 by about 4e-3
_MANY = 13  # segments of a row
_ROOM = 8  # segments of a row on average, at least
MAX_LENGTH = 16384  # of a tested row: the reference of a longer one might not fit the device

Attend = Callable[..., jax.Array]
Arrays = dict[str, jax.Array]  # q, k, v and sinks, by these names


@functools.cache  # a program is built more than once in a run
def difference(attend: Attend, use: Use, device: Any) -> float:
    """The greatest relative difference to the blocked back end in float32, of output and gradients.

    Three rows: some segments with padding behind them, one segment, and many short ones; the
    queries are a row's last. The output's gradient differs from number to number.
    """
    length = min(use.length, MAX_LENGTH)
    form = use.form
    if form.max_segments is not None:
        form = dataclasses.replace(form, max_segments=max(_ROOM, form.max_segments))
    use = dataclasses.replace(
        use, form=form, length=length, query_length=min(use.query_length, length)
    )
    arrays, segments_BS = _example(use)
    exact = jax.tree.map(lambda array: array.astype(jnp.float32), arrays)
    found = []
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        for window in use.form.windows or (None,):
            expected = _outcome(blocked.attend, use, window, exact, segments_BS)
            actual = _outcome(attend, use, window, arrays, segments_BS)
            found += jax.tree.leaves(jax.tree.map(_relative, expected, actual))
    return float(np.max(found))  # NaN where one is


def _example(use: Use) -> tuple[Arrays, jax.Array]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), use.dtype)

    arrays = {
        "q": normal(3, use.query_length, use.num_heads, use.head_dim),
        "k": normal(3, use.length, use.num_kv_heads, use.head_dim),
        "v": normal(3, use.length, use.num_kv_heads, use.head_dim),
        "d_out": normal(3, use.query_length, use.num_heads, use.head_dim),
    }
    if use.form.sinks:
        arrays["sinks"] = normal(use.num_heads).astype(jnp.float32)
    # Ends that no block size divides.
    ends = [use.length * part // 16 + 1 for part in (3, 4, 11, 15)]
    segments_BS = np.ones((3, use.length), np.int32)
    segments_BS[0] += np.searchsorted(ends, np.arange(use.length), side="right")
    segments_BS[0, ends[-1] :] = 0
    segments_BS[2] += np.arange(use.length) * _MANY // use.length
    return arrays, jnp.asarray(segments_BS)


def _outcome(
    attend: Attend, use: Use, window: int | None, arrays: Arrays, segments_BS: jax.Array
) -> Arrays:
    """The output and the gradient of each array, for the output's gradient d_out."""
    first = use.length - use.query_length
    visibility = Visibility(segments_BS[:, first:], segments_BS, first, window)

    given = {name: array for name, array in arrays.items() if name != "d_out"}

    def loss(given, d_out_BTNH):
        kv = KeysAndValues(given["k"], given["v"], given.get("sinks"))
        out_BTNH = attend(given["q"], kv, visibility, use.form)
        return jnp.sum(d_out_BTNH * out_BTNH.astype(jnp.float32)), out_BTNH

    program = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, out_BTNH), gradients = program(given, arrays["d_out"].astype(jnp.float32))
    return {"out": out_BTNH, **gradients}


def _relative(expected: jax.Array, actual: jax.Array) -> float:
    a, b = (np.asarray(array, np.float32).ravel() for array in (expected, actual))
    return float(np.linalg.norm(b - a) / np.linalg.norm(a))
