"""What a mixture-of-experts block is made of. D: embed_dim, E: expert, F: expert_mlp_dim."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClampedSwiGLU:
    """gate * sigmoid(alpha * gate) * (up + 1), gate and up held within the limit (gpt-oss)."""

    alpha: float
    limit: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoeSettings:
    """A router, `num_experts` gated MLPs of which each token uses some, and maybe a shared one.

    Softmax over the chosen experts' logits is the same function as softmax over all of them,
    divided by the chosen ones' sum: `normalised_shares` stands for both.
    """

    num_experts: int
    experts_per_token: int
    expert_mlp_dim: int
    normalised_shares: bool  # the chosen experts' shares sum to 1; else they are shares among all
    shared_mlp_dim: int | None = None  # an expert for all tokens, behind a sigmoid gate (qwen2_moe)
    clamped_swiglu: ClampedSwiGLU | None = None  # None: silu(gate) * up
    expert_biases: bool = False
    router_bias: bool = False
    back_end: str = "auto"  # of kernels.experts.choose.BACK_ENDS, by the run; "auto": of ours
    # Of the load-balancing loss, as published, and whether it is to be trained with.
    balance_coefficient: float = 0.001
    balances: bool = False
    keeps_log_sums: bool = False  # whether RouterStats has what a z-loss needs; by the run
    init_stddev: float = 0.02  # of random weights; biases start at 0


def active_parameters(s: MoeSettings, embed_dim: int) -> int:
    """Parameters that one token's forward pass multiplies or adds; 2 FLOPs for each weight."""
    D, E, F = embed_dim, s.num_experts, s.expert_mlp_dim
    expert = 3 * D * F + (2 * F + D if s.expert_biases else 0)
    router = D * E + (E if s.router_bias else 0)
    shared = 0 if s.shared_mlp_dim is None else 3 * D * s.shared_mlp_dim + D
    return s.experts_per_token * expert + router + shared
