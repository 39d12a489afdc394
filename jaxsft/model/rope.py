"""Rotary position embedding. B: batch row, T: position, N: head, H: head_dim, R: rotation."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.model.settings import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)


def rotated_dims(rope: Rope, head_dim: int) -> int:
    """How many of a head's dimensions are turned: two for each rotation."""
    return 2 * math.ceil(int(head_dim * rope.share) / 2)


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians per position of each rotation, float32, for segments of the original length.

    Source: arXiv:2104.09864 eq. 15; llama3 scaling as in Meta's llama-models (apply_scaling).
    """
    frequencies = 1.0 / _periods(rope.theta, int(head_dim * rope.share))
    match rope.scaling:
        case None | DynamicScaling():
            result = frequencies
        case LinearScaling(factor=factor):
            result = frequencies / np.float32(factor)
        case Llama3Scaling() as scaling:
            result = _llama3(frequencies, scaling)
        case YarnScaling() as scaling:
            result = _yarn(frequencies, scaling, rope.theta, int(head_dim * rope.share))
        case LongRopeScaling(short_factors=factors):
            result = frequencies / np.asarray(factors, np.float32)
    return result.astype(np.float32)


def _periods(theta: float, dims: int) -> np.ndarray:
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return (np.float32(theta) ** exponents).astype(np.float32)


def _llama3(frequencies_R: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    wavelengths_R = 2 * math.pi / frequencies_R
    turns_R = scaling.original_max_positions / wavelengths_R
    keep_R = turns_R - scaling.low_freq_factor
    keep_R = np.clip(keep_R / (scaling.high_freq_factor - scaling.low_freq_factor), 0, 1)
    return (1 - keep_R) * frequencies_R / scaling.factor + keep_R * frequencies_R


def _yarn(frequencies_R: np.ndarray, scaling: YarnScaling, theta: float, dims: int) -> np.ndarray:
    """Source: arXiv:2309.00071 section 3.2."""

    def rotation_with(turns: float) -> float:
        """The rotation, as a real number, that turns so often within the original length."""
        period = scaling.original_max_positions / (turns * 2 * math.pi)
        return dims * math.log(period) / (2 * math.log(theta))

    first, last = rotation_with(scaling.beta_fast), rotation_with(scaling.beta_slow)
    if scaling.whole_dimensions:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    width = (last - first) or 0.001
    interpolated_R = np.clip((np.arange(frequencies_R.size) - first) / width, 0, 1)
    kept_R = frequencies_R * (1 - interpolated_R)
    return kept_R + frequencies_R / np.float32(scaling.factor) * interpolated_R


def depends_on_length(rope: Rope) -> bool:
    """Whether a segment's length changes the rotations of all its positions."""
    return isinstance(rope.scaling, DynamicScaling | LongRopeScaling)


def segment_lengths(segments_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """At each token one more than the greatest position of its segment."""
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return 1 + jnp.max(jnp.where(same_BTS, positions_BT[:, None, :], 0), axis=-1)


def frequencies(rope: Rope, head_dim: int, lengths_BT: jax.Array | None) -> jax.Array:
    """Radians per position at each token; [1, 1, R] where segments' lengths don't matter."""
    usual_11R = jnp.asarray(inverse_frequencies(rope, head_dim))[None, None, :]
    dims = int(head_dim * rope.share)
    match rope.scaling:
        case DynamicScaling(factor=factor, original_max_positions=original):
            assert lengths_BT is not None
            stretch_BT1 = factor * lengths_BT[:, :, None] / original - (factor - 1)
            base_BT1 = rope.theta * jnp.maximum(stretch_BT1, 1) ** (dims / (dims - 2))
            exponents_11R = jnp.arange(0, dims, 2, dtype=jnp.float32)[None, None, :] / dims
            long_BTR = base_BT1**-exponents_11R
        case LongRopeScaling(long_factors=factors, original_max_positions=original):
            assert lengths_BT is not None
            plain_R = 1.0 / _periods(rope.theta, dims)
            long_BTR = jnp.asarray(plain_R / np.asarray(factors, np.float32))[None, None, :]
        case _:
            return usual_11R
    return jnp.where(lengths_BT[:, :, None] > original, long_BTR, usual_11R)


def rotations(
    ropes: Sequence[Rope | None],
    head_dim: int,
    positions_BT: jax.Array,
    lengths_BT: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of each position's angles by each rope, float32 [len(ropes), B, T, R].

    Args:
        ropes: all of one share of head_dim; None turns nothing, it has cosine 1 and sine 0.
        lengths_BT: of `segment_lengths`; None where `depends_on_length` says no for all ropes.
    """
    assert len({rope.interleaved for rope in ropes if rope is not None}) <= 1, ropes
    (dims,) = {rotated_dims(rope, head_dim) for rope in ropes if rope is not None} or {head_dim}
    cosines, sines = [], []
    for rope in ropes:
        if rope is None:
            ones_BTR = jnp.ones((*positions_BT.shape, dims // 2), jnp.float32)
            cos_BTR, sin_BTR = ones_BTR, jnp.zeros_like(ones_BTR)
        else:
            frequencies_BTR = frequencies(rope, head_dim, lengths_BT)
            angles_BTR = positions_BT[:, :, None].astype(jnp.float32) * frequencies_BTR
            cos_BTR, sin_BTR = jnp.cos(angles_BTR), jnp.sin(angles_BTR)
            if isinstance(rope.scaling, YarnScaling | LongRopeScaling):
                cos_BTR *= rope.scaling.attention_factor
                sin_BTR *= rope.scaling.attention_factor
        cosines.append(cos_BTR)
        sines.append(sin_BTR)
    return jnp.stack(cosines), jnp.stack(sines)


def rotate(
    x_BTNH: jax.Array, cos_BTR: jax.Array, sin_BTR: jax.Array, interleaved: bool
) -> jax.Array:
    """Queries or keys turned by their positions' angles, in x's dtype.

    Args:
        interleaved: rotation r turns dimensions 2r and 2r + 1; otherwise r and R + r.
    """
    num_rotations = cos_BTR.shape[-1]
    turned, passed = x_BTNH[..., : 2 * num_rotations], x_BTNH[..., 2 * num_rotations :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, axis=-1)
    cos, sin = (part[:, :, None, :].astype(x_BTNH.dtype) for part in (cos_BTR, sin_BTR))
    halves = [first * cos - second * sin, second * cos + first * sin]
    if interleaved:
        turned = jnp.stack(halves, axis=-1).reshape(turned.shape)
        return jnp.concatenate([turned, passed], axis=-1)
    return jnp.concatenate([*halves, passed] if passed.size else halves, axis=-1)
