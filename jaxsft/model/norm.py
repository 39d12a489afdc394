"""Root-mean-square normalisation. D: embed_dim."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.model import parameter


class RMSNorm(nnx.Module):
    """Source: arXiv:1910.07467; in float32, the scale applied after the cast back, as in Llama."""

    def __init__(self, size: int, eps: float):
        self.scale_D = parameter.scale(size)
        self.eps = eps

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        wide_BTD = x_BTD.astype(jnp.float32)
        variance_BT1 = jnp.mean(jnp.square(wide_BTD), axis=-1, keepdims=True)
        normed_BTD = (wide_BTD * jax.lax.rsqrt(variance_BT1 + self.eps)).astype(x_BTD.dtype)
        return normed_BTD * self.scale_D[None, None, :].astype(x_BTD.dtype)
