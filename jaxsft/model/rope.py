"""Rotary position embedding. B: batch row, T: position, N: head, H: head_dim."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.model.settings import LinearScaling, Llama3Scaling, Rope


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians per position of each of the head_dim / 2 rotations, float32.

    Source: arXiv:2104.09864 eq. 15; llama3 scaling as in Meta's llama-models (apply_scaling).
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.float32(rope.theta) ** exponents).astype(np.float32)
    match rope.scaling:
        case None:
            return frequencies
        case LinearScaling(factor=factor):
            return (frequencies / np.float32(factor)).astype(np.float32)
        case Llama3Scaling() as scaling:
            return _llama3(frequencies, scaling)


def _llama3(frequencies: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_positions / wavelengths
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = np.clip(keep, 0, 1)
    return ((1 - keep) * frequencies / scaling.factor + keep * frequencies).astype(np.float32)


def rotations(rope: Rope, head_dim: int, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of each position's angles, float32 [B, T, H / 2]."""
    frequencies = jnp.asarray(inverse_frequencies(rope, head_dim))
    angles = positions_BT[:, :, None].astype(jnp.float32) * frequencies[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Queries or keys turned by their positions' angles, in x's dtype; half-rotation layout."""
    first, second = jnp.split(x_BTNH, 2, axis=-1)
    cos, sin = (part[:, :, None, :].astype(x_BTNH.dtype) for part in (cos, sin))
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
