"""Causal attention among the tokens of one segment, by the back end that was chosen.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, H: head_dim.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxsft.devices.mesh import RULES, parts
from jaxsft.kernels.attention import blocked, cudnn, full, splash, triton
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Visibility

# Each has attend's signature, for the queries of one device and all keys of their rows.
BACK_ENDS: dict[str, Callable[..., jax.Array]] = {
    "splash": splash.attend,
    "cudnn": cudnn.attend,
    "triton": triton.attend,
    "blocked": blocked.attend,
    "xla": full.attend,
}


def attend(
    q_BTNH: jax.Array, kv: KeysAndValues, visibility: Visibility, form: AttentionForm
) -> jax.Array:
    """Each query's mean of its own segment's values up to it, weighted by softmax(scale x qk).

    Args:
        visibility: its first query is more than 0 when decoding with a cache, which `xla` alone
            does.

    Returns:
        [B, T, N, H] in the dtype of q; logits and softmax are float32.
    """
    assert (kv.sinks_N is not None) == form.sinks, "sinks where the form says so"
    assert (visibility.window is not None) == bool(form.windows), "a window of the form's"
    mesh = jax.sharding.get_abstract_mesh()
    if form.back_end == "xla" or mesh.empty or mesh.size == 1:
        return BACK_ENDS[form.back_end](q_BTNH, kv, visibility, form)
    return _on_each_device(mesh, q_BTNH, kv, visibility, form)


def local_heads(num_heads: int, num_kv_heads: int, parts: int) -> tuple[int, int]:
    """Query and key-value heads of one of so many devices, which share what doesn't split."""
    local = num_heads // parts
    return local, local // math.gcd(local, num_heads // num_kv_heads)


def _on_each_device(
    mesh, q_BTNH: jax.Array, kv: KeysAndValues, visibility: Visibility, form: AttentionForm
) -> jax.Array:
    """A device's queries and heads over the whole rows' keys, which `context` does not split."""

    def over(logical: str, size: int) -> tuple[str, ...] | None:
        return RULES[logical] if size % parts(logical, mesh.shape) == 0 else None

    batch, queries = over("batch", q_BTNH.shape[0]), over("sequence", q_BTNH.shape[1])
    heads, kv_heads = over("heads", q_BTNH.shape[2]), over("kv_heads", kv.k_BSKH.shape[2])
    q_spec, kv_spec = PartitionSpec(batch, queries, heads), PartitionSpec(batch, None, kv_heads)
    group = q_BTNH.shape[2] // kv.k_BSKH.shape[2]

    def on_device(q_BTNH, k_BSKH, v_BSKH, visibility, sinks_N):
        if heads is not None and kv_heads is None:
            used_K = _kv_heads_of(jax.lax.axis_index(heads), q_BTNH.shape[2], group)
            k_BSKH, v_BSKH = k_BSKH[:, :, used_K], v_BSKH[:, :, used_K]
        first = 0 if queries is None else jax.lax.axis_index(queries) * q_BTNH.shape[1]
        kv = KeysAndValues(k_BSKH, v_BSKH, sinks_N)
        visibility = dataclasses.replace(visibility, first_query=first)
        return BACK_ENDS[form.back_end](q_BTNH, kv, visibility, form)

    whole: Any = PartitionSpec()
    q_segments_spec: Any = PartitionSpec(batch, queries)
    kv_segments_spec: Any = PartitionSpec(batch)
    visibility_specs = Visibility(q_segments_spec, kv_segments_spec, whole, whole)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(q_spec, kv_spec, kv_spec, visibility_specs, PartitionSpec(heads)),
        out_specs=q_spec,
        check_vma=False,
    )(q_BTNH, kv.k_BSKH, kv.v_BSKH, visibility, kv.sinks_N)


def _kv_heads_of(part: jax.Array, num_heads: int, group: int) -> jax.Array:
    """Key-value heads that the num_heads query heads of a part use, each for as many of them."""
    run_length = math.gcd(num_heads, group)
    return (part * num_heads + jnp.arange(0, num_heads, run_length)) // group
