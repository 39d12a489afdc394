"""Cross-entropy of a linear head that never holds [tokens, vocabulary].

The gradients are formed in the same pass as the loss, since the loss is a plain sum. Over a mesh
each device has its own tokens and its own part of the vocabulary: the head is gathered once along
its embedding, and its gradient goes back once to where the head lies.

B: batch row, T: position, D: embed_dim, V: vocabulary.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from jaxsft.devices.mesh import RULES, spec
from jaxsft.kernels.loss.chunks import AllSums, Gradients, sums_and_gradients
from jaxsft.kernels.loss.form import LossForm, Targets
from jaxsft.kernels.loss.placed_targets import head_spec, target_specs, used, with_whole_head


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def cross_entropy(
    hidden_BTD: jax.Array, head: jax.Array, targets: Targets, form: LossForm
) -> AllSums:
    """Sums of the cross-entropy over all tokens of the global batch, and over each segment.

    Differentiable in hidden and head through `minimised` of the whole alone; what a teacher gives
    is constant. Without differentiation no gradient is formed; none of the head where only hidden
    is differentiated. A function of the segments' sums has the gradient of `nll` with each
    segment's weights times the function's derivative by that segment's nll.

    Args:
        hidden_BTD: any float dtype; the matmuls run in it, logits and log-sum-exp in float32.
        head: [D, V], or the embedding [V, D] where tied; any float dtype.

    Returns:
        The sums, with those by source where the form has sources; and those of each segment, None
        where the form has no segments.
    """
    return _over_mesh(form, hidden_BTD, head, targets, ())[0]


def _forward_rule(hidden_BTD, head, targets, form):
    wanted = ("hidden", "head") if head.perturbed else ("hidden",)
    targets = jax.tree.map(lambda primal: primal.value, targets)
    return _over_mesh(form, hidden_BTD.value, head.value, targets, wanted)


def _backward_rule(form, gradients, cotangents):
    d_hidden_BTD, d_head = gradients
    d_sum, minimised = cotangents[0].minimised, "nll" if form.plain else "objective"
    others = dataclasses.replace(cotangents[0], **{minimised: None})
    for one in jax.tree.leaves((others, cotangents[1])):
        assert isinstance(one, SymbolicZero), f"{minimised} of the whole alone is differentiable"
    if isinstance(d_sum, SymbolicZero):
        return None, None, None

    def scaled(gradient):
        return (d_sum * gradient.astype(jnp.float32)).astype(gradient.dtype)

    d_head = None if d_head is None else scaled(d_head)
    return scaled(d_hidden_BTD), d_head, None


cross_entropy.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)


def _over_mesh(
    form: LossForm,
    hidden_BTD: jax.Array,
    head: jax.Array,
    targets: Targets,
    wanted: tuple[str, ...],
) -> tuple[AllSums, Gradients]:
    """Sums and gradients over the mesh in use, in the dtypes of what they are the gradients of."""
    targets = used(form, targets)
    mesh = jax.sharding.get_abstract_mesh()
    dtypes = hidden_BTD.dtype, head.dtype
    if mesh.empty or mesh.size == 1:
        sums, (d_hidden_BTD, d_head) = sums_and_gradients(
            form, hidden_BTD, head, targets, wanted, ()
        )
        return sums, (d_hidden_BTD, None if d_head is None else d_head.astype(dtypes[1]))
    token_axes = RULES["batch"] + RULES["sequence"]
    # Devices that share the head's embedding have tokens of their own; their gradients add up.
    shared = RULES["embed"]
    alone = tuple(axis for axis in token_axes if axis not in shared)
    split = math.prod(mesh.shape[axis] for axis in RULES["vocab"]) > 1
    embed_dim = 1 if form.tied else 0

    def on_device(hidden_BTD, head, targets):
        head = jax.lax.all_gather(head.astype(dtypes[0]), shared, axis=embed_dim, tiled=True)
        targets = with_whole_head(form, targets, shared)
        vocab_axes = RULES["vocab"] if split else ()
        (sums, by_segment), (d_hidden_BTD, d_head) = sums_and_gradients(
            form, hidden_BTD, head, targets, wanted, vocab_axes
        )
        if d_head is not None:
            d_head = jax.lax.psum_scatter(d_head, shared, scatter_dimension=embed_dim, tiled=True)
            d_head = jax.lax.psum(d_head, alone).astype(dtypes[1])
            # Else the compiler may keep the whole head's gradient through the layers' backward
            # pass and scatter it behind: 1.8 of 13.2 GB for Llama-3.1-8B on four v5p.
            d_hidden_BTD, d_head = jax.lax.optimization_barrier((d_hidden_BTD, d_head))
        sums = jax.lax.psum(sums, token_axes)
        return (sums, jax.lax.psum(by_segment, RULES["sequence"])), (d_hidden_BTD, d_head)

    hidden_spec, own_spec = spec("batch", "sequence", None), head_spec(form)
    gradient_specs = (
        hidden_spec if "hidden" in wanted else None,
        own_spec if "head" in wanted else None,
    )
    by_segment_spec = None if form.num_segments is None else spec("batch", None)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(hidden_spec, own_spec, target_specs(form, targets)),
        out_specs=((PartitionSpec(), by_segment_spec), gradient_specs),
        check_vma=False,
    )(hidden_BTD, head, targets)
