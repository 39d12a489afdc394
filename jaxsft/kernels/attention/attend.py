"""Causal attention among the tokens of one segment, by the back end that was chosen.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, H: head_dim.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxsft.devices.mesh import RULES, parts
from jaxsft.kernels.attention import blocked, cudnn, full, splash, triton

# All of attend's signature, for the queries of one device and all keys of their rows.
BACK_ENDS: dict[str, Callable[..., jax.Array]] = {
    "splash": splash.attend,
    "cudnn": cudnn.attend,
    "triton": triton.attend,
    "blocked": blocked.attend,
    "xla": full.attend,
}


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array,
    kv_segments_BS: jax.Array,
    first_query: jax.Array | int = 0,
    *,
    back_end: str = "xla",
    scale: float | None = None,
    window: jax.Array | int | None = None,
    windows: tuple[int, ...] = (),
    soft_cap: float | None = None,
    sinks_N: jax.Array | None = None,
) -> jax.Array:
    """Each query's mean of its own segment's values up to it, weighted by softmax(scale x qk).

    Args:
        q_segments_BT: int32; padding (0) attends to padding, so that no row is empty.
        first_query: key position of query 0, more than 0 when decoding with a cache, which `xla`
            alone does.
        back_end: a name in BACK_ENDS.
        scale: None: H ** -0.5.
        window: a query sees its own key and the window - 1 before it; None: all before it.
        windows: the values that a traced `window` may have.
        soft_cap: logits become soft_cap * tanh(logits / soft_cap).
        sinks_N: a logit for each head that takes part in the softmax and has no value.

    Returns:
        [B, T, N, H] in the dtype of q; logits and softmax are float32.
    """
    options = {"scale": scale, "windows": windows, "soft_cap": soft_cap}
    run = functools.partial(BACK_ENDS[back_end], **options)
    arrays = (q_BTNH, k_BSKH, v_BSKH, q_segments_BT, kv_segments_BS)
    mesh = jax.sharding.get_abstract_mesh()
    if back_end == "xla" or mesh.empty or mesh.size == 1:
        return run(*arrays, first_query, window=window, sinks_N=sinks_N)
    return _on_each_device(run, mesh, arrays, window, sinks_N)


def local_heads(num_heads: int, num_kv_heads: int, parts: int) -> tuple[int, int]:
    """Query and key-value heads of one of so many devices, which share what doesn't split."""
    local = num_heads // parts
    return local, local // math.gcd(local, num_heads // num_kv_heads)


def _on_each_device(run: Callable[..., jax.Array], mesh, arrays, window, sinks_N) -> jax.Array:
    """A device's queries and heads over the whole rows' keys, which `context` does not split."""
    q_BTNH, k_BSKH = arrays[:2]

    def over(logical: str, size: int) -> tuple[str, ...] | None:
        return RULES[logical] if size % parts(logical, mesh.shape) == 0 else None

    batch, queries = over("batch", q_BTNH.shape[0]), over("sequence", q_BTNH.shape[1])
    heads, kv_heads = over("heads", q_BTNH.shape[2]), over("kv_heads", k_BSKH.shape[2])
    q_spec, kv_spec = PartitionSpec(batch, queries, heads), PartitionSpec(batch, None, kv_heads)
    group = q_BTNH.shape[2] // k_BSKH.shape[2]

    def on_device(arrays, window, sinks_N):
        q_BTNH, k_BSKH, v_BSKH, *segments = arrays
        if heads is not None and kv_heads is None:
            used_K = _kv_heads_of(jax.lax.axis_index(heads), q_BTNH.shape[2], group)
            k_BSKH, v_BSKH = k_BSKH[:, :, used_K], v_BSKH[:, :, used_K]
        first = 0 if queries is None else jax.lax.axis_index(queries) * q_BTNH.shape[1]
        return run(q_BTNH, k_BSKH, v_BSKH, *segments, first, window=window, sinks_N=sinks_N)

    segment_specs = (PartitionSpec(batch, queries), PartitionSpec(batch))
    array_specs = (q_spec, kv_spec, kv_spec, *segment_specs)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(array_specs, PartitionSpec(), PartitionSpec(heads)),
        out_specs=q_spec,
        check_vma=False,
    )(arrays, window, sinks_N)


def _kv_heads_of(part: jax.Array, num_heads: int, group: int) -> jax.Array:
    """Key-value heads that the num_heads query heads of a part use, each for as many of them."""
    run_length = math.gcd(num_heads, group)
    return (part * num_heads + jnp.arange(0, num_heads, run_length)) // group
