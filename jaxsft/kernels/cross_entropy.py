"""Cross-entropy of a linear head that never holds [tokens, vocabulary].

Targets of weight 0 cost nothing: rows are ordered supervised first, and the loop over chunks stops
behind the last of them. The gradients are formed in the same pass, since the loss is a plain sum.

B: batch row, T: position, N: tokens of this device, C: tokens of a chunk, D: embed_dim,
V: vocabulary.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxsft.mesh import RULES


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over target tokens, float32 scalars; a mean is one of them over `weight`."""

    nll: jax.Array  # weight x negative log-likelihood, nats
    weight: jax.Array
    correct: jax.Array  # weight of the targets that have the greatest logit
    entropy: jax.Array  # weight x entropy of the predicted distribution, nats
    supervised_tokens: jax.Array  # targets of weight > 0
    source_nll: jax.Array | None = None  # [S]: nll and weight of each source of a mixture
    source_weight: jax.Array | None = None

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)

    @staticmethod
    def zero(num_sources: int | None = None) -> "Sums":
        zero = jnp.float32(0)
        by_source = None if num_sources is None else jnp.zeros(num_sources, jnp.float32)
        return Sums(zero, zero, zero, zero, zero, by_source, by_source)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 6, 7))
def cross_entropy(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    vocab_size: int,
    sources_BT: jax.Array | None = None,
    num_sources: int | None = None,
    soft_cap: float | None = None,
) -> Sums:
    """Sums of the cross-entropy over all tokens of the global batch.

    Differentiable in hidden and head through `nll` alone.

    Args:
        hidden_BTD: any float dtype; the matmuls run in it, logits and log-sum-exp in float32.
        head_DV: any float dtype; columns from vocab_size on are padding and never win.
        targets_BT: int32 in [0, vocab_size) wherever the weight isn't 0.
        weights_BT: float32, 0 for targets without loss.
        sources_BT: int32 in [0, num_sources): where given, there are sums by source too.
        soft_cap: logits become soft_cap * tanh(logits / soft_cap).
    """
    arrays = (hidden_BTD, head_DV, targets_BT, weights_BT, sources_BT)
    return _forward(arrays, vocab_size, num_sources, soft_cap, False)[0]


def _forward_rule(
    hidden_BTD,
    head_DV,
    targets_BT,
    weights_BT,
    vocab_size,
    sources_BT=None,
    num_sources=None,
    soft_cap=None,
):
    arrays = (hidden_BTD, head_DV, targets_BT, weights_BT, sources_BT)
    sums, (d_hidden_BTD, d_head_DV) = _forward(arrays, vocab_size, num_sources, soft_cap, True)
    return sums, (d_hidden_BTD, d_head_DV.astype(head_DV.dtype))


def _backward_rule(vocab_size, num_sources, soft_cap, gradients, cotangent):
    del vocab_size, num_sources, soft_cap
    hidden_BTD, head_DV = gradients
    d_hidden_BTD = cotangent.nll.astype(hidden_BTD.dtype) * hidden_BTD
    d_head_DV = cotangent.nll.astype(head_DV.dtype) * head_DV
    return d_hidden_BTD, d_head_DV, None, None, None


cross_entropy.defvjp(_forward_rule, _backward_rule)


def _forward(arrays, vocab_size, num_sources, soft_cap, with_gradients):
    """Sums and gradients over the mesh in use: each device takes its share of the tokens."""
    local = functools.partial(
        _local,
        vocab_size=vocab_size,
        num_sources=num_sources,
        soft_cap=soft_cap,
        with_gradients=with_gradients,
    )
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(*arrays)
    rows = PartitionSpec(*_token_axes(mesh, arrays[0].shape))
    used = tuple(axis for axes in rows if axes for axis in axes)

    def on_device(*arrays):
        sums, gradients = local(*arrays)
        sums = jax.lax.psum(sums, used)
        if with_gradients:
            gradients = (gradients[0], jax.lax.psum(gradients[1], used))
        return sums, gradients

    hidden_spec, head_spec = PartitionSpec(*rows, None), PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(hidden_spec, head_spec, rows, rows, rows),
        out_specs=(PartitionSpec(), (hidden_spec, head_spec) if with_gradients else None),
        check_vma=False,
    )(*arrays)


def _token_axes(mesh, shape) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Mesh axes that rows and positions are split over; tensor devices share the positions too."""
    positions = (*RULES["sequence"], "tensor")
    parts = math.prod(mesh.shape[axis] for axis in positions)
    return RULES["batch"], positions if shape[1] % parts == 0 else None


def _local(
    hidden_BTD,
    head_DV,
    targets_BT,
    weights_BT,
    sources_BT,
    *,
    vocab_size,
    num_sources,
    soft_cap,
    with_gradients,
):
    dtype = hidden_BTD.dtype
    hidden_ND = jnp.reshape(hidden_BTD, (-1, hidden_BTD.shape[-1]))
    targets_N, weights_N = jnp.ravel(targets_BT), jnp.ravel(weights_BT)
    num_tokens, chunk = targets_N.size, chunk_tokens(targets_N.size)
    # Supervised rows first; behind them indices out of range, read as zeros and never written to.
    order = jnp.argsort(weights_N == 0, stable=True)
    num_supervised = jnp.count_nonzero(weights_N)
    order = jnp.where(jnp.arange(num_tokens) < num_supervised, order, num_tokens)
    order = jnp.pad(order, (0, -num_tokens % chunk), constant_values=num_tokens)
    num_chunks = (num_supervised + chunk - 1) // chunk
    compute_DV = head_DV.astype(dtype)

    def add_chunk(i, carry):
        sums, gradients = carry
        index_C = jax.lax.dynamic_slice(order, (i * chunk,), (chunk,))
        hidden_CD = hidden_ND.at[index_C].get(mode="fill", fill_value=0)
        targets_C = targets_N.at[index_C].get(mode="fill", fill_value=0)
        weights_C = weights_N.at[index_C].get(mode="fill", fill_value=0)
        logits_CV, slope_CV = _chunk_logits(hidden_CD, compute_DV, vocab_size, soft_cap)
        chunk_sums, nll_C, probability_CV = _chunk_sums(logits_CV, targets_C, weights_C)
        if sources_BT is not None:
            sources_C = jnp.ravel(sources_BT).at[index_C].get(mode="fill", fill_value=0)
            chunk_sums = _with_sources(chunk_sums, nll_C, weights_C, sources_C, num_sources)
        if with_gradients:
            wanted = weights_C[:, None] * probability_CV
            d_logits_CV = wanted.at[jnp.arange(chunk), targets_C].add(-weights_C)
            if slope_CV is not None:
                d_logits_CV *= slope_CV
            d_logits_CV = d_logits_CV.astype(dtype)
            d_hidden_CD = jnp.einsum("CV,DV->CD", d_logits_CV, compute_DV)
            d_head_DV = jnp.einsum(
                "CD,CV->DV", hidden_CD, d_logits_CV, preferred_element_type=jnp.float32
            )
            d_hidden_ND = gradients[0].at[index_C].set(d_hidden_CD, mode="drop")
            gradients = (d_hidden_ND, gradients[1] + d_head_DV)
        return sums + chunk_sums, gradients

    gradients = None
    if with_gradients:
        gradients = (jnp.zeros_like(hidden_ND), jnp.zeros(head_DV.shape, jnp.float32))
    zero = Sums.zero(None if sources_BT is None else num_sources)
    sums, gradients = jax.lax.fori_loop(0, num_chunks, add_chunk, (zero, gradients))
    if with_gradients:
        gradients = (gradients[0].reshape(hidden_BTD.shape), gradients[1])
    return sums, gradients


def _chunk_logits(hidden_CD, head_DV, vocab_size, soft_cap):
    """Float32 logits, and their derivatives by the logits before the soft cap (None without)."""
    logits_CV = jnp.einsum("CD,DV->CV", hidden_CD, head_DV, preferred_element_type=jnp.float32)
    slope_CV = None
    if soft_cap is not None:
        tanh_CV = jnp.tanh(logits_CV / soft_cap)
        logits_CV, slope_CV = soft_cap * tanh_CV, 1 - jnp.square(tanh_CV)
    if vocab_size != head_DV.shape[1]:
        is_token_V = jnp.arange(head_DV.shape[1]) < vocab_size
        logits_CV = jnp.where(is_token_V[None], logits_CV, -jnp.inf)
    return logits_CV, slope_CV


def _chunk_sums(logits_CV, targets_C, weights_C):
    """Sums over a chunk, its negative log-likelihoods, and the predicted probabilities."""
    top_C = jnp.max(logits_CV, axis=-1)
    exp_CV = jnp.exp(logits_CV - top_C[:, None])
    total_C = jnp.sum(exp_CV, axis=-1)
    log_sum_C = top_C + jnp.log(total_C)
    probability_CV = exp_CV / total_C[:, None]
    label_C = jnp.take_along_axis(logits_CV, targets_C[:, None], axis=-1)[:, 0]
    finite_CV = jnp.where(jnp.isfinite(logits_CV) | (probability_CV > 0), logits_CV, 0)
    entropy_C = log_sum_C - jnp.sum(probability_CV * finite_CV, axis=-1)
    nll_C = log_sum_C - label_C
    sums = Sums(
        nll=jnp.sum(weights_C * nll_C),
        weight=jnp.sum(weights_C),
        correct=jnp.sum(weights_C * (label_C == top_C)),
        entropy=jnp.sum(weights_C * entropy_C),
        supervised_tokens=jnp.sum(weights_C > 0).astype(jnp.float32),
    )
    return sums, nll_C, probability_CV


def _with_sources(sums, nll_C, weights_C, sources_C, num_sources):
    def by_source(values_C):
        return jax.ops.segment_sum(values_C, sources_C, num_sources)

    return dataclasses.replace(
        sums, source_nll=by_source(weights_C * nll_C), source_weight=by_source(weights_C)
    )


def chunk_tokens(num_tokens: int) -> int:
    """Tokens of one chunk: an eighth of the batch, so that skipping pays, from 128 to 1024."""
    eighth = -(-num_tokens // 8)
    return min(max(128, -(-eighth // 128) * 128), 1024)
