"""Normalisation of activations. D: embed_dim, X: any leading dimensions."""

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
    x_XD: jax.Array,
    scale_D: jax.Array,
    bias_D: jax.Array | None,
    s: settings.NormSettings,
    eps: float,
    dims: int,
) -> jax.Array:
    """The last `dims` dimensions normalised together, in the dtype of x."""
    axes = tuple(range(-dims, 0))
    wide_XD = x_XD.astype(jnp.float32)
    if s.centered:
        wide_XD -= jnp.mean(wide_XD, axis=axes, keepdims=True)
    variance_X1 = jnp.mean(jnp.square(wide_XD), axis=axes, keepdims=True)
    normed_XD = wide_XD * jax.lax.rsqrt(variance_X1 + eps)
    if not s.scale_in_float32:
        normed_XD = normed_XD.astype(x_XD.dtype)
    if s.scale_plus_one:
        scale_D = 1 + scale_D.astype(jnp.float32)
    scale_D = scale_D.astype(normed_XD.dtype)
    normed_XD *= jnp.expand_dims(scale_D, tuple(range(x_XD.ndim - scale_D.ndim)))
    if bias_D is not None:
        bias_D = bias_D.astype(normed_XD.dtype)
        normed_XD += jnp.expand_dims(bias_D, tuple(range(x_XD.ndim - bias_D.ndim)))
    return normed_XD.astype(x_XD.dtype)


def unit_scale(
    s: settings.DecoderSettings, shape: tuple[int, ...], axes: tuple[str, ...]
) -> nnx.Param[jax.Array]:
    """A parameter that changes nothing yet: ones, or zeros where 1 is added to it."""
    if s.norm.scale_plus_one:
        return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)
    return parameter.scale(shape, axes)
