"""The feed-forward block. D: embed_dim, F: mlp_dim, X: tokens, rows and positions in one,
x: any dimensions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxsft.devices.mesh import constrain, is_split
from jaxsft.model import parameter, settings
from jaxsft.model.remat import Part

SAVED = {Part.MLP_IN: ("gate", "up")}  # names of results; those of experts are called the same


class Mlp(nnx.Module):
    """act(x gate) * (x up), projected down (arXiv:2002.05202); act(x up) without a gate."""

    def __init__(self, s: settings.DecoderSettings, *, rngs: nnx.Rngs):
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
        # A weight's gradient sums over tokens. XLA:CPU takes a sum over two dimensions only from
        # transposed copies; but positions split over devices can't be merged with the rows.
        if is_split("sequence"):
            return self._apply(x_BTD, "batch", "sequence")
        x_XD = x_BTD.reshape(-1, x_BTD.shape[-1])
        return self._apply(x_XD, "batch").reshape(x_BTD.shape)

    def _apply(self, x_xD: jax.Array, *token_axes: str) -> jax.Array:
        """x is one dimension, or rows and positions."""
        s = self.settings
        hidden_xF = _linear(x_xD, self.up_DF, self.up_bias_F if s.mlp_bias else None)
        hidden_xF = checkpoint_name(hidden_xF, "up")
        if s.mlp_gated:
            gate_xF = _linear(x_xD, self.gate_DF, self.gate_bias_F if s.mlp_bias else None)
            gate_xF = checkpoint_name(gate_xF, "gate")
            hidden_xF = activate(gate_xF, s.activation) * hidden_xF
        else:
            hidden_xF = activate(hidden_xF, s.activation)
        hidden_xF = constrain(hidden_xF, *token_axes, "mlp")
        return _linear(hidden_xF, self.down_FD, self.down_bias_D if s.mlp_bias else None)


def _linear(x_xD: jax.Array, weight_DF: nnx.Param, bias_F: nnx.Param | None) -> jax.Array:
    out_xF = parameter.product("...D,DF->...F", x_xD, weight_DF)
    if bias_F is None:
        return out_xF
    return out_xF + jnp.broadcast_to(bias_F[...].astype(x_xD.dtype), out_xF.shape)


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
