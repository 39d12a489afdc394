"""Random numbers of a training step: the same for a token of an example wherever it is computed.

They depend on the seed, the step, the example and the position in it; not on the row, on what else
the row holds, on micro-batches or on devices. A token that an epoch has twice in one step has the
same ones in both places.

B: batch row, T: position, X: tokens, rows and positions in one, D: any width.
"""

import jax
import jax.numpy as jnp

EMBEDDING = 0  # the stream of a token's numbers that its embedding takes
FIRST_LAYER = 1  # and that of the first layer; the others have those behind


def token_keys(
    seed: int, step: jax.Array | int, examples_BT: jax.Array, positions_BT: jax.Array
) -> jax.Array:
    """A key for each token, [B, T].

    Args:
        examples_BT: int32, which example of the data each token is from.
        positions_BT: int32, of the token in its example.
    """
    of_step = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)

    def key(example: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(of_step, example), position)

    return jax.vmap(jax.vmap(key))(examples_BT, positions_BT)


def of_stream(keys_BT: jax.Array, stream: jax.Array | int) -> jax.Array:
    """Keys of their own for one who asks, independent from stream to stream."""
    return jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, stream)))(keys_BT)


def sixteen_bits(keys_X: jax.Array, dim: int) -> jax.Array:
    """Uint16 numbers, [X, dim]."""

    def numbers(key: jax.Array) -> jax.Array:
        drawn = jax.random.bits(key, (-(-dim // 2),), jnp.uint32)
        return jax.lax.bitcast_convert_type(drawn, jnp.uint16).reshape(-1)[:dim]

    return jax.vmap(numbers)(keys_X)


def uniform(keys_BT: jax.Array, stream: jax.Array | int, dim: int) -> jax.Array:
    """Float32 numbers in [0, 1), [B, T, dim], independent from stream to stream.

    Args:
        stream: who asks, such as a layer; 0 is the embedding.
    """

    def numbers(key: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, stream), (dim,), jnp.float32)

    return jax.vmap(jax.vmap(numbers))(keys_BT)


def noisy(
    x_BTD: jax.Array,
    keys_BT: jax.Array,
    segments_BT: jax.Array,
    lengths_BT: jax.Array,
    alpha: float,
) -> jax.Array:
    """Embeddings with noise, uniform in [-1, 1] x alpha / sqrt(length x D); none on padding.

    Source: arXiv:2310.05914, algorithm 1.

    Args:
        lengths_BT: tokens of the segment that each token is in.
    """
    dim = x_BTD.shape[-1]
    most_BT = jnp.where(segments_BT > 0, alpha * jax.lax.rsqrt(jnp.float32(dim) * lengths_BT), 0)
    noise_BTD = most_BT[:, :, None] * (2 * uniform(keys_BT, EMBEDDING, dim) - 1)
    return (x_BTD.astype(jnp.float32) + noise_BTD).astype(x_BTD.dtype)
