"""The mixture-of-experts feed-forward block, without capacity: no token is ever dropped.

B: batch row, T: position, D: embed_dim, E: expert, X: experts of a token, F: expert_mlp_dim,
x: any dimensions.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxsft.devices.mesh import constrain
from jaxsft.kernels.experts import gated_mlps as kernel
from jaxsft.kernels.experts.choose import fastest
from jaxsft.kernels.experts.form import Use
from jaxsft.model import moe_settings, parameter


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RouterStats:
    """Sums over real tokens, float32; those of several layers or batches may be added.

    Of layers that are scanned, each leaf has a leading dimension L.
    """

    assignments_E: jax.Array  # tokens that chose each expert
    probability_E: jax.Array  # softmax over all experts
    tokens: jax.Array
    square_log_sum: jax.Array | None = None  # of the logits' log-sum-exp; None: not asked for

    def __add__(self, other: "RouterStats") -> "RouterStats":
        return jax.tree.map(jnp.add, self, other)


def load_balancing_loss(stats_x: RouterStats) -> jax.Array:
    """num_experts x sum of (share of tokens x mean probability); X where all are used evenly.

    One number for each layer where the stats are of layers. Source: arXiv:2101.03961 eq. 4 to 6,
    with all X choices of a token counted.
    """
    share_E = stats_x.assignments_E / stats_x.tokens[..., None]
    mean_E = stats_x.probability_E / stats_x.tokens[..., None]
    return share_E.shape[-1] * (share_E * mean_E).sum(axis=-1)


class SharedExpert(nnx.Module):
    """A gated MLP for every token, times the sigmoid of a learnt direction."""

    def __init__(self, embed_dim: int, mlp_dim: int, stddev: float, *, rngs: nnx.Rngs):
        D, F = embed_dim, mlp_dim
        self.gate_DF = parameter.matrix(rngs, stddev, (D, F), ("embed", "mlp"))
        self.up_DF = parameter.matrix(rngs, stddev, (D, F), ("embed", "mlp"))
        self.down_FD = parameter.matrix(rngs, stddev, (F, D), ("mlp", "embed"))
        self.share_D1 = parameter.matrix(rngs, stddev, (D, 1), ("embed", "routing"))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        gate_BTF = parameter.product("BTD,DF->BTF", x_BTD, self.gate_DF)
        up_BTF = parameter.product("BTD,DF->BTF", x_BTD, self.up_DF)
        gate_BTF, up_BTF = checkpoint_name(gate_BTF, "gate"), checkpoint_name(up_BTF, "up")
        hidden_BTF = constrain(jax.nn.silu(gate_BTF) * up_BTF, "batch", "sequence", "mlp")
        out_BTD = parameter.product("BTF,FD->BTD", hidden_BTF, self.down_FD)
        share_BT1 = parameter.product("BTD,DZ->BTZ", x_BTD, self.share_D1)
        return jax.nn.sigmoid(share_BT1) * out_BTD


class Moe(nnx.Module):
    def __init__(self, s: moe_settings.MoeSettings, embed_dim: int, *, rngs: nnx.Rngs):
        self.settings = s
        D, E, F, std = embed_dim, s.num_experts, s.expert_mlp_dim, s.init_stddev
        self.router_DE = parameter.matrix(rngs, std, (D, E), ("embed", "routing"))
        self.gate_EDF = parameter.matrix(rngs, std, (E, D, F), ("expert", "expert_embed", "mlp"))
        self.up_EDF = parameter.matrix(rngs, std, (E, D, F), ("expert", "expert_embed", "mlp"))
        self.down_EFD = parameter.matrix(rngs, std, (E, F, D), ("expert", "mlp", "expert_embed"))
        if s.router_bias:
            self.router_bias_E = parameter.matrix(rngs, 0.0, (E,), ("routing",))
        if s.expert_biases:
            self.gate_bias_EF = parameter.matrix(rngs, 0.0, (E, F), ("expert", "mlp"))
            self.up_bias_EF = parameter.matrix(rngs, 0.0, (E, F), ("expert", "mlp"))
            self.down_bias_ED = parameter.matrix(rngs, 0.0, (E, D), ("expert", "expert_embed"))
        if s.shared_mlp_dim is not None:
            self.shared = SharedExpert(D, s.shared_mlp_dim, std, rngs=rngs)

    def __call__(
        self, x_BTD: jax.Array, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, RouterStats]:
        """The block's output in x's dtype, and what the router did.

        Args:
            segments_BT: int32; padding (0) goes to no expert and is not counted. None: none is.
        """
        real_BT = None if segments_BT is None else segments_BT > 0
        chosen_BTX, shares_BTX, stats = self._route(x_BTD, real_BT)
        y_BTD = kernel.mix(
            x_BTD,
            chosen_BTX,
            shares_BTX,
            self._weights(x_BTD.dtype),
            self._activate,
            self._back_end(x_BTD),
        )
        if self.settings.expert_biases:
            shares_BTE = kernel.spread(chosen_BTX, shares_BTX, self.settings.num_experts)
            y_BTD += parameter.product("BTE,ED->BTD", shares_BTE, self.down_bias_ED)
        y_BTD = y_BTD.astype(x_BTD.dtype)
        if self.settings.shared_mlp_dim is not None:
            y_BTD += self.shared(x_BTD)
        return constrain(y_BTD, "batch", "sequence", "activation_embed"), stats

    def _route(
        self, x_BTD: jax.Array, real_BT: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, RouterStats]:
        """Each token's experts, num_experts for none, and their float32 shares.

        In float32 whatever the model's dtype, since a rounded logit picks another expert. Of equal
        logits the first experts win.
        """
        s = self.settings
        logits_BTE = parameter.product(
            "BTD,DE->BTE",
            x_BTD.astype(jnp.float32),
            self.router_DE,
            precision=jax.lax.Precision.HIGHEST,
        )
        if s.router_bias:
            logits_BTE += self.router_bias_E[None, None, :]
        top_BTX, chosen_BTX = kernel.top_k(logits_BTE, s.experts_per_token)
        among = top_BTX if s.normalised_shares else logits_BTE
        total_BT1 = jax.nn.logsumexp(among, axis=-1, keepdims=True)
        shares_BTX = jnp.exp(top_BTX - total_BT1)
        if real_BT is not None:
            chosen_BTX = jnp.where(real_BT[:, :, None], chosen_BTX, s.num_experts)
        return chosen_BTX, shares_BTX, _stats(s, logits_BTE, chosen_BTX, real_BT)

    def _weights(self, dtype: jnp.dtype) -> kernel.Experts:
        gate_EDF, gate_change = parameter.of_experts(self.gate_EDF, dtype)
        up_EDF, up_change = parameter.of_experts(self.up_EDF, dtype)
        down_EFD, down_change = parameter.of_experts(self.down_EFD, dtype)
        biases = [self.gate_bias_EF, self.up_bias_EF] if self.settings.expert_biases else []
        return kernel.Experts(
            gate_EDF,
            up_EDF,
            down_EFD,
            *(parameter.whole(bias, dtype) for bias in biases),
            gate_change=gate_change,
            up_change=up_change,
            down_change=down_change,
        )

    def _back_end(self, x_BTD: jax.Array) -> str:
        s = self.settings
        if s.back_end != "auto":
            return s.back_end
        embed_dim, dtype = x_BTD.shape[-1], x_BTD.dtype.name
        use = Use(
            platform=jax.default_backend(),
            embed_dim=embed_dim,
            mlp_dim=s.expert_mlp_dim,
            dtype=dtype,
        )
        return fastest(use, None)[0]

    def _activate(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        clamped = self.settings.clamped_swiglu
        if clamped is None:
            return jax.nn.silu(gate) * up
        gate = jnp.minimum(gate, clamped.limit)
        up = jnp.clip(up, -clamped.limit, clamped.limit)
        return gate * jax.nn.sigmoid(clamped.alpha * gate) * (up + 1)


def _stats(
    s: moe_settings.MoeSettings,
    logits_BTE: jax.Array,
    chosen_BTX: jax.Array,
    real_BT: jax.Array | None,
) -> RouterStats:
    num_experts = logits_BTE.shape[-1]
    if real_BT is None:
        real_BT = jnp.ones(logits_BTE.shape[:2], bool)
    probability_BTE = jax.nn.softmax(logits_BTE, axis=-1) * real_BT[:, :, None]
    chosen_BTXE = jax.nn.one_hot(chosen_BTX, num_experts)  # all zeros where none is chosen
    square_log_sum = None
    if s.keeps_log_sums:
        square_log_sum = jnp.sum(jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)), where=real_BT)
    return RouterStats(
        assignments_E=jnp.sum(chosen_BTXE, axis=(0, 1, 2)),
        probability_E=jnp.sum(probability_BTE, axis=(0, 1)),
        tokens=jnp.sum(real_BT, dtype=jnp.float32),
        square_log_sum=square_log_sum,
    )
