"""The gated feed-forward block. D: embed_dim, F: mlp_dim."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.mesh import constrain
from jaxsft.model import parameter, settings


class SwiGLU(nnx.Module):
    """silu(x gate) * (x up), projected down. Source: arXiv:2002.05202."""

    def __init__(self, s: settings.Decoder, *, rngs: nnx.Rngs):
        D, F, std = s.embed_dim, s.mlp_dim, s.init_stddev
        self.gate_DF = parameter.matrix(rngs, std, (D, F), ("embed", "mlp"))
        self.up_DF = parameter.matrix(rngs, std, (D, F), ("embed", "mlp"))
        self.down_FD = parameter.matrix(rngs, std, (F, D), ("mlp", "embed"))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        gate_BTF = jnp.einsum("BTD,DF->BTF", x_BTD, self.gate_DF[...].astype(x_BTD.dtype))
        up_BTF = jnp.einsum("BTD,DF->BTF", x_BTD, self.up_DF[...].astype(x_BTD.dtype))
        hidden_BTF = constrain(jax.nn.silu(gate_BTF) * up_BTF, "batch", "sequence", "mlp")
        return jnp.einsum("BTF,FD->BTD", hidden_BTF, self.down_FD[...].astype(x_BTD.dtype))
