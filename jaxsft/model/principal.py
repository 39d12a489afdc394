"""The best approximation of a matrix by factors of low rank: with which adapters begin in PiSSA.

A matrix is W = U S V^T; its largest R singular values make the nearest matrix of that rank. They
are taken from the eigenvectors of W W^T or W^T W, the smaller of the two: exact but for
rounding, and far cheaper than all singular vectors. One matrix at a time, whole on each device, so
that every mesh gets the same bits.

I: inputs of a product in one, O: its outputs, R: rank.
"""

import functools
import math

import jax
import jax.numpy as jnp

from jaxsft.devices.mesh import constrain

_multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def factors(
    weight_x: jax.Array, scale_x: jax.Array, rank: int, num_stacked: int, num_inputs: int
) -> tuple[jax.Array, jax.Array]:
    """A and B with scale x A B nearest to the weight, float32: [*stack, *in, R], [*stack, R, *out].

    Args:
        weight_x: [*stack, *in, *out].
        scale_x: one number, or one for each of the first dimension of the stack.
    """
    if num_stacked:

        def of_one(given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            return factors(*given, rank, num_stacked - 1, num_inputs)

        scales_x = jnp.broadcast_to(scale_x, weight_x.shape[:1])
        return jax.lax.map(of_one, (weight_x, scales_x))
    inputs, outputs = weight_x.shape[:num_inputs], weight_x.shape[num_inputs:]
    weight_IO = weight_x.astype(jnp.float32).reshape(math.prod(inputs), math.prod(outputs))
    a_IR, b_RO = _of_matrix(constrain(weight_IO, None, None), rank)
    root = jnp.sqrt(scale_x)
    a_IR, b_RO = constrain(a_IR / root, None, None), constrain(b_RO / root, None, None)
    return a_IR.reshape(*inputs, rank), b_RO.reshape(rank, *outputs)


def _of_matrix(weight_IO: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """U sqrt(S) and sqrt(S) V^T of the largest singular values; zeros for those that are zero."""
    if weight_IO.shape[0] > weight_IO.shape[1]:
        b_OR, a_RI = _of_matrix(weight_IO.T, rank)
        return a_RI.T, b_OR.T
    _, vectors_II = jnp.linalg.eigh(_multiply(weight_IO, weight_IO.T))
    u_IR = vectors_II[:, ::-1][:, :rank]
    # Which of two opposite vectors is found depends on the library.
    largest_1R = jnp.take_along_axis(u_IR, jnp.argmax(jnp.abs(u_IR), axis=0)[None], axis=0)
    u_IR = u_IR * jnp.where(largest_1R < 0, -1.0, 1.0)
    right_RO = _multiply(u_IR.T, weight_IO)  # S V^T
    roots_R = jnp.sqrt(jnp.linalg.norm(right_RO, axis=1))
    inverse_R = jnp.where(roots_R > 0, 1 / jnp.where(roots_R > 0, roots_R, 1), 0)
    return u_IR * roots_R[None], right_RO * inverse_R[:, None]
