"""The feed-forward block. D: embed_dim, F: mlp_dim, X: tokens, rows and positions in one."""

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

    def _apply(self, x_XD: jax.Array, *token_axes: str) -> jax.Array:
        """X is one dimension, or rows and positions."""
        s = self.settings
        hidden_XF = _linear(x_XD, self.up_DF, self.up_bias_F if s.mlp_bias else None)
        hidden_XF = checkpoint_name(hidden_XF, "up")
        if s.mlp_gated:
            gate_XF = _linear(x_XD, self.gate_DF, self.gate_bias_F if s.mlp_bias else None)
            gate_XF = checkpoint_name(gate_XF, "gate")
            hidden_XF = activate(gate_XF, s.activation) * hidden_XF
        else:
            hidden_XF = activate(hidden_XF, s.activation)
        hidden_XF = constrain(hidden_XF, *token_axes, "mlp")
        return _linear(hidden_XF, self.down_FD, self.down_bias_D if s.mlp_bias else None)


def _linear(x_XD: jax.Array, weight_DF: nnx.Param, bias_F: nnx.Param | None) -> jax.Array:
    out_XF = parameter.product("...D,DF->...F", x_XD, weight_DF)
    if bias_F is None:
        return out_XF
    return out_XF + jnp.broadcast_to(bias_F[...].astype(x_XD.dtype), out_XF.shape)


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
