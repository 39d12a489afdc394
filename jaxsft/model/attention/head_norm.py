"""Normalisation of queries and keys by heads. B: batch row, T: position, N: heads, H: head_dim."""

import jax
from flax import nnx

from jaxsft.model import settings
from jaxsft.model.norm import normalise, unit_scale


class HeadNorm(nnx.Module):
    """Normalises queries or keys, [B, T, N, H]."""

    def __init__(self, s: settings.DecoderSettings, num_heads: int, heads: str):
        assert s.qk_norm is not None
        self.settings, self.eps = s.norm, s.norm_eps
        self.dims = 2 if s.qk_norm is settings.QkNorm.WIDTH else 1
        if s.qk_norm is settings.QkNorm.HEAD:
            self.scale_H = unit_scale(s, (s.head_dim,), ("norm",))
        else:
            self.scale_NH = unit_scale(s, (num_heads, s.head_dim), (heads, "head_dim"))
        self.shared = s.qk_norm is settings.QkNorm.HEAD

    def __call__(self, x_BTNH: jax.Array) -> jax.Array:
        scale = self.scale_H[...] if self.shared else self.scale_NH[...]
        return normalise(x_BTNH, scale, None, self.settings, self.eps, self.dims)
