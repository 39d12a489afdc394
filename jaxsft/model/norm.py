"""Normalisation of activations, of whole vectors and of queries and keys by heads.

D: embed_dim, N: heads, H: head_dim.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.model import parameter, settings


class Norm(nnx.Module):
    """Root mean square (arXiv:1910.07467) or LayerNorm (arXiv:1607.06450), in float32."""

    def __init__(self, s: settings.DecoderSettings):
        self.scale_D = _scale(s, (s.embed_dim,), ("norm",))
        if s.norm.bias:
            self.bias_D = parameter.bias((s.embed_dim,), ("norm",))
        self.settings, self.eps = s.norm, s.norm_eps

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        bias_D = self.bias_D[...] if self.settings.bias else None
        return _normalise(x_BTD, self.scale_D[...], bias_D, self.settings, self.eps, 1)


class HeadNorm(nnx.Module):
    """Normalises queries or keys, [B, T, N, H]."""

    def __init__(self, s: settings.DecoderSettings, num_heads: int, heads: str):
        assert s.qk_norm is not None
        self.settings, self.eps = s.norm, s.norm_eps
        self.dims = 2 if s.qk_norm is settings.QkNorm.WIDTH else 1
        if s.qk_norm is settings.QkNorm.HEAD:
            self.scale_H = _scale(s, (s.head_dim,), ("norm",))
        else:
            self.scale_NH = _scale(s, (num_heads, s.head_dim), (heads, "head_dim"))
        self.shared = s.qk_norm is settings.QkNorm.HEAD

    def __call__(self, x_BTNH: jax.Array) -> jax.Array:
        scale = self.scale_H[...] if self.shared else self.scale_NH[...]
        return _normalise(x_BTNH, scale, None, self.settings, self.eps, self.dims)


def _normalise(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None,
    s: settings.NormSettings,
    eps: float,
    dims: int,
) -> jax.Array:
    """The last `dims` dimensions of x normalised together, in its dtype.

    Args:
        scale, bias: of these dimensions.
    """
    axes = tuple(range(-dims, 0))
    wide = x.astype(jnp.float32)
    if s.centered:
        wide -= jnp.mean(wide, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(wide), axis=axes, keepdims=True)
    normed = wide * jax.lax.rsqrt(variance + eps)
    if not s.scale_in_float32:
        normed = normed.astype(x.dtype)
    if s.scale_plus_one:
        scale = 1 + scale.astype(jnp.float32)
    scale = scale.astype(normed.dtype)
    normed *= jnp.expand_dims(scale, tuple(range(x.ndim - scale.ndim)))
    if bias is not None:
        bias = bias.astype(normed.dtype)
        normed += jnp.expand_dims(bias, tuple(range(x.ndim - bias.ndim)))
    return normed.astype(x.dtype)


def _scale(
    s: settings.DecoderSettings, shape: tuple[int, ...], axes: tuple[str, ...]
) -> nnx.Param[jax.Array]:
    """A scale that changes nothing: ones, or zeros where 1 is added to it."""
    if s.norm.scale_plus_one:
        return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)
    return parameter.scale(shape, axes)
