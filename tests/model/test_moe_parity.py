"""The mixture of experts against transformers' blocks: outputs, gradients, the router's loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers
from flax import nnx
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.mixtral import modeling_mixtral
from transformers.models.olmoe import modeling_olmoe
from transformers.models.qwen2_moe import modeling_qwen2_moe
from transformers.models.qwen3_moe import modeling_qwen3_moe

from jaxsft.model import moe, moe_settings

D, E, X, F, SHARED = 24, 6, 3, 20, 36
SIZES = dict(num_experts=E, experts_per_token=X, expert_mlp_dim=F)
SHAPE = (2, 11, D)
COUNTS = dict(hidden_size=D, num_experts_per_tok=X)


def mixtral():
    config = transformers.MixtralConfig(intermediate_size=F, num_local_experts=E, **COUNTS)
    return modeling_mixtral.MixtralSparseMoeBlock(config), dict(normalised_shares=True)


def qwen2_moe(normalised):
    config = transformers.Qwen2MoeConfig(
        moe_intermediate_size=F,
        shared_expert_intermediate_size=SHARED,
        num_experts=E,
        norm_topk_prob=normalised,
        **COUNTS,
    )
    block = modeling_qwen2_moe.Qwen2MoeSparseMoeBlock(config)
    return block, dict(normalised_shares=normalised, shared_mlp_dim=SHARED)


def qwen3_moe(normalised):
    config = transformers.Qwen3MoeConfig(
        moe_intermediate_size=F, num_experts=E, norm_topk_prob=normalised, **COUNTS
    )
    return modeling_qwen3_moe.Qwen3MoeSparseMoeBlock(config), dict(normalised_shares=normalised)


def olmoe():
    config = transformers.OlmoeConfig(
        intermediate_size=F, num_experts=E, norm_topk_prob=False, **COUNTS
    )
    return modeling_olmoe.OlmoeSparseMoeBlock(config), dict(normalised_shares=False)


def gpt_oss(alpha, limit):
    config = transformers.GptOssConfig(
        intermediate_size=F,
        num_local_experts=E,
        swiglu_alpha=alpha,
        swiglu_limit=limit,
        **COUNTS,
    )
    settings = dict(
        normalised_shares=True,
        expert_biases=True,
        router_bias=True,
        clamped_swiglu=moe_settings.ClampedSwiGLU(alpha=alpha, limit=limit),
    )
    return modeling_gpt_oss.GptOssMLP(config), settings


BLOCKS = {
    "mixtral": mixtral,
    "qwen2_moe": lambda: qwen2_moe(False),
    "qwen2_moe normalised": lambda: qwen2_moe(True),
    "qwen3_moe": lambda: qwen3_moe(False),
    "qwen3_moe normalised": lambda: qwen3_moe(True),
    "olmoe": olmoe,
    "gpt_oss": lambda: gpt_oss(1.702, 7.0),
    "gpt_oss far below the limit": lambda: gpt_oss(0.3, 2.0),  # 1.702 hides what is not clamped
}


def as_ours(theirs: dict[str, torch.Tensor]) -> dict:
    """Their block's tensors, or the gradients of them, in our names and layouts."""
    theirs = {name: value.detach().numpy() for name, value in theirs.items()}
    fused = theirs["experts.gate_up_proj"]
    if "router.weight" in theirs:  # gpt_oss: not transposed, gate and up column by column
        bias = theirs["experts.gate_up_proj_bias"]
        return {
            "router_DE": theirs["router.weight"].T,
            "router_bias_E": theirs["router.bias"],
            "gate_EDF": fused[..., ::2],
            "up_EDF": fused[..., 1::2],
            "down_EFD": theirs["experts.down_proj"],
            "gate_bias_EF": bias[..., ::2],
            "up_bias_EF": bias[..., 1::2],
            "down_bias_ED": theirs["experts.down_proj_bias"],
        }
    ours = {
        "router_DE": theirs["gate.weight"].T,
        "gate_EDF": fused[:, :F].transpose(0, 2, 1),
        "up_EDF": fused[:, F:].transpose(0, 2, 1),
        "down_EFD": theirs["experts.down_proj"].transpose(0, 2, 1),
    }
    if "shared_expert_gate.weight" in theirs:
        ours["shared"] = {
            "gate_DF": theirs["shared_expert.gate_proj.weight"].T,
            "up_DF": theirs["shared_expert.up_proj.weight"].T,
            "down_FD": theirs["shared_expert.down_proj.weight"].T,
            "share_D1": theirs["shared_expert_gate.weight"].T,
        }
    return ours


def run_theirs(block, x, direction):
    """Output and gradients of sum(output x direction): of the input, of the weights."""
    x = torch.tensor(x, requires_grad=True)
    out = block(x)
    out = out[0] if isinstance(out, tuple) else out
    (out * torch.tensor(direction)).sum().backward()
    grads = {name: weight.grad for name, weight in block.named_parameters()}
    return out.detach().numpy(), x.grad.numpy(), as_ours(grads)


def run_ours(settings, params, x, direction):
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: moe.Moe(settings, D, rngs=nnx.Rngs(0))))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        lambda leaf: leaf.shape, nnx.to_pure_dict(shapes)
    )

    def loss(x_BTD, params):
        y_BTD, _ = nnx.merge(graphdef, params)(x_BTD)
        return jnp.sum(y_BTD * direction), y_BTD

    (d_x, d_params), out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, params)
    return out, d_x, d_params


def randomise(block, scale):
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in block.parameters():
            weight.normal_(0, scale)


@pytest.mark.parametrize("family", BLOCKS)
def test_outputs_and_gradients_are_those_of_transformers(family):
    block, settings = BLOCKS[family]()
    # Large enough that gpt_oss' clamps bite and that shares differ from token to token.
    randomise(block, 1.0 if family.startswith("gpt_oss") else 0.3)
    rng = np.random.default_rng(0)
    x, direction = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
    expected = run_theirs(block, x, direction)
    params = as_ours(dict(block.named_parameters()))
    settings = moe_settings.MoeSettings(**SIZES, **settings)
    actual = run_ours(settings, params, x, direction)
    # Of the output's size: gpt_oss' outputs are about 100 here.
    np.testing.assert_allclose(actual[0], expected[0], 1e-5, 1e-6 * np.abs(expected[0]).max())
    tiny.assert_trees_close(actual[1:], expected[1:], rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_the_load_balancing_loss_is_that_of_transformers(masked):
    rng = np.random.default_rng(1)
    layers = [rng.normal(size=(2, 9, E)).astype(np.float32) for _ in range(3)]
    mask = np.ones((2, 9), np.int32)
    mask[1, 5:] = 0 if masked else 1
    expected = modeling_mixtral.load_balancing_loss_func(
        tuple(torch.tensor(layer.reshape(-1, E)) for layer in layers),
        E,
        X,
        torch.tensor(mask) if masked else None,
    )
    settings = moe_settings.MoeSettings(**SIZES, normalised_shares=False)
    # The identity as router, so that the inputs are the logits.
    module = moe.Moe(settings, E, rngs=nnx.Rngs(0))
    module.router_DE[...] = jnp.eye(E)
    segments = jnp.asarray(mask) if masked else None
    stats = [module(jnp.asarray(layer), segments)[1] for layer in layers]
    actual = moe.load_balancing_loss(stats[0] + stats[1] + stats[2])
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-6)
