"""Cross-entropy of a linear head that never holds [tokens, vocabulary].

The gradients are formed in the same pass as the loss, since the loss is a plain sum. Over a mesh
each device has its own tokens and its own part of the vocabulary: the head is gathered once along
its embedding, and its gradient goes back once to where the head lies.

B: batch row, T: position, D: embed_dim, V: vocabulary.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from jaxsft.devices.mesh import RULES, spec
from jaxsft.kernels.loss.chunks import Form, sums_and_gradients
from jaxsft.kernels.loss.sums import Sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 6, 7, 8))
def cross_entropy(
    hidden_BTD: jax.Array,
    head: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    vocab_size: int,
    sources_BT: jax.Array | None = None,
    num_sources: int | None = None,
    soft_cap: float | None = None,
    tied: bool = False,
) -> Sums:
    """Sums of the cross-entropy over all tokens of the global batch.

    Differentiable in hidden and head through `nll` alone. Without differentiation no gradient is
    formed; none of the head where only hidden is differentiated.

    Args:
        hidden_BTD: any float dtype; the matmuls run in it, logits and log-sum-exp in float32.
        head: [D, V], or the embedding [V, D] where tied; any float dtype. Columns from vocab_size
            on are padding and never win.
        targets_BT: int32 in [0, vocab_size) wherever the weight isn't 0.
        weights_BT: float32, 0 for targets without loss.
        sources_BT: int32 in [0, num_sources): where given, there are sums by source too.
        soft_cap: logits become soft_cap * tanh(logits / soft_cap).
    """
    arrays = (hidden_BTD, head, targets_BT, weights_BT, sources_BT)
    form = Form(vocab_size, num_sources, soft_cap, tied, ())
    return _over_mesh(form, arrays)[0]


def _forward_rule(
    hidden_BTD,
    head,
    targets_BT,
    weights_BT,
    vocab_size,
    sources_BT=None,
    num_sources=None,
    soft_cap=None,
    tied=False,
):
    wanted = ("hidden", "head") if head.perturbed else ("hidden",)
    form = Form(vocab_size, num_sources, soft_cap, tied, wanted)
    sources_BT = None if sources_BT is None else sources_BT.value
    arrays = (hidden_BTD.value, head.value, targets_BT.value, weights_BT.value, sources_BT)
    return _over_mesh(form, arrays)


def _backward_rule(vocab_size, num_sources, soft_cap, tied, gradients, cotangent):
    del vocab_size, num_sources, soft_cap, tied
    d_hidden_BTD, d_head = gradients
    if isinstance(cotangent.nll, SymbolicZero):
        return None, None, None, None, None

    def scaled(gradient):
        return (cotangent.nll * gradient.astype(jnp.float32)).astype(gradient.dtype)

    d_head = None if d_head is None else scaled(d_head)
    return scaled(d_hidden_BTD), d_head, None, None, None


cross_entropy.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)


def _over_mesh(form: Form, arrays: tuple[Any, ...]) -> tuple[Sums, Any]:
    """Sums and gradients over the mesh in use, in the dtypes of what they are the gradients of."""
    mesh = jax.sharding.get_abstract_mesh()
    dtypes = arrays[0].dtype, arrays[1].dtype
    if mesh.empty or mesh.size == 1:
        sums, (d_hidden_BTD, d_head) = sums_and_gradients(form, arrays, ())
        return sums, (d_hidden_BTD, None if d_head is None else d_head.astype(dtypes[1]))
    token_axes = RULES["batch"] + RULES["sequence"]
    # Devices that share the head's embedding have tokens of their own; their gradients add up.
    shared = RULES["embed"]
    alone = tuple(axis for axis in token_axes if axis not in shared)
    split = math.prod(mesh.shape[axis] for axis in RULES["vocab"]) > 1
    embed_dim = 1 if form.tied else 0

    def on_device(hidden_BTD, head, *others):
        head = jax.lax.all_gather(head.astype(dtypes[0]), shared, axis=embed_dim, tiled=True)
        sums, (d_hidden_BTD, d_head) = sums_and_gradients(
            form, (hidden_BTD, head, *others), RULES["vocab"] if split else ()
        )
        if d_head is not None:
            d_head = jax.lax.psum_scatter(d_head, shared, scatter_dimension=embed_dim, tiled=True)
            d_head = jax.lax.psum(d_head, alone).astype(dtypes[1])
        return jax.lax.psum(sums, token_axes), (d_hidden_BTD, d_head)

    rows = spec("batch", "sequence")
    hidden = spec("batch", "sequence", None)
    head = spec("vocab", "embed") if form.tied else spec("embed", "vocab")
    gradients = (
        hidden if "hidden" in form.gradients else None,
        head if "head" in form.gradients else None,
    )
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(hidden, head, rows, rows, rows),
        out_specs=(PartitionSpec(), gradients),
        check_vma=False,
    )(*arrays)
