"""The feed-forward block. D: embed_dim, F: mlp_dim."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.mesh import constrain
from jaxsft.model import parameter, settings


class Mlp(nnx.Module):
    """act(x gate) * (x up), projected down (arXiv:2002.05202); act(x up) without a gate."""

    def __init__(self, s: settings.Decoder, *, rngs: nnx.Rngs):
        D, F, std = s.embed_dim, s.mlp_dim, s.init_stddev
        self.settings = s
        if s.mlp_gated:
            self.gate_DF = parameter.matrix(rngs, std, (D, F), ("embed", "mlp"))
        self.up_DF = parameter.matrix(rngs, std, (D, F), ("embed", "mlp"))
        self.down_FD = parameter.matrix(rngs, std, (F, D), ("mlp", "embed"))
        if s.mlp_bias:
            if s.mlp_gated:
                self.gate_bias_F = parameter.bias((F,), ("mlp",))
            self.up_bias_F = parameter.bias((F,), ("mlp",))
            self.down_bias_D = parameter.bias((D,), ("norm",))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        s, dtype = self.settings, x_BTD.dtype
        hidden_BTF = jnp.einsum("BTD,DF->BTF", x_BTD, self.up_DF[...].astype(dtype))
        if s.mlp_bias:
            hidden_BTF += self.up_bias_F[...].astype(dtype)[None, None]
        if s.mlp_gated:
            gate_BTF = jnp.einsum("BTD,DF->BTF", x_BTD, self.gate_DF[...].astype(dtype))
            if s.mlp_bias:
                gate_BTF += self.gate_bias_F[...].astype(dtype)[None, None]
            hidden_BTF = activate(gate_BTF, s.activation) * hidden_BTF
        else:
            hidden_BTF = activate(hidden_BTF, s.activation)
        hidden_BTF = constrain(hidden_BTF, "batch", "sequence", "mlp")
        out_BTD = jnp.einsum("BTF,FD->BTD", hidden_BTF, self.down_FD[...].astype(dtype))
        return out_BTD + self.down_bias_D[...].astype(dtype)[None, None] if s.mlp_bias else out_BTD


def activate(x: jax.Array, activation: settings.Activation) -> jax.Array:
    match activation:
        case settings.Activation.SILU:
            return jax.nn.silu(x)
        case settings.Activation.GELU:
            return jax.nn.gelu(x, approximate=False)
        case settings.Activation.GELU_TANH:
            return jax.nn.gelu(x, approximate=True)
        case settings.Activation.RELU:
            return jax.nn.relu(x)
