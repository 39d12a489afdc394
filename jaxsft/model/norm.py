"""Normalisation of activations. D: embed_dim."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.model import parameter, settings


class Norm(nnx.Module):
    """Root mean square (arXiv:1910.07467) or LayerNorm (arXiv:1607.06450), in float32."""

    def __init__(self, s: settings.DecoderSettings):
        self.scale_D = unit_scale(s, (s.embed_dim,), ("norm",))
        if s.norm.bias:
            self.bias_D = parameter.bias((s.embed_dim,), ("norm",))
        self.settings, self.eps = s.norm, s.norm_eps

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        bias_D = self.bias_D[...] if self.settings.bias else None
        return normalise(x_BTD, self.scale_D[...], bias_D, self.settings, self.eps, 1)


def normalise(
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


def unit_scale(
    s: settings.DecoderSettings, shape: tuple[int, ...], axes: tuple[str, ...]
) -> nnx.Param[jax.Array]:
    """A parameter that changes nothing yet: ones, or zeros where 1 is added to it."""
    if s.norm.scale_plus_one:
        return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)
    return parameter.scale(shape, axes)
