"""config.json of the families with experts: read as transformers means it, or refused by name."""

import pytest
from transformers import AutoConfig

from jaxsft.convert.families.config_json import settings_from_config
from jaxsft.convert.gguf import architectures
from jaxsft.errors import ConversionError
from jaxsft.model import moe_settings, settings
from tests.convert.families.family_cases import FILES, WITH_EXPERTS
from tests.convert.families.features import YARN

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 28,
    "num_experts_per_tok": 2,
    "num_local_experts": 6,
    **YARN,
}


def read(family, **changes):
    config = {"model_type": family, **SIZES, **changes}
    kept = {name: value for name, value in config.items() if value is not ...}
    return settings_from_config(kept, "config.json")


@pytest.mark.parametrize("family", WITH_EXPERTS)
def test_both_names_of_the_number_of_experts_mean_the_same(family):
    usual = read(family)[0]
    assert usual.moe.num_experts == 6
    assert read(family, num_local_experts=..., num_experts=6)[0] == usual
    assert read(family, num_experts=6)[0] == usual
    with pytest.raises(ConversionError, match="num_experts=7 is not supported; 6 is"):
        read(family, num_experts=7)
    with pytest.raises(ConversionError, match="has no num_local_experts"):
        read(family, num_local_experts=...)


@pytest.mark.parametrize("family", WITH_EXPERTS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_local_experts": 0}, "num_local_experts=0"),
        ({"num_experts_per_tok": 7}, "num_experts_per_tok=7 is more than the 6 experts"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok=0"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported; silu, swish are"),
        ({"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config=.*fp8"),
        ({"n_routed_experts": 8}, "n_routed_experts=8"),
    ],
    ids=str,
)
def test_what_changes_the_arithmetic_is_refused(family, changes, message):
    with pytest.raises(ConversionError, match=message):
        read(family, **changes)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [(name, *case) for name in WITH_EXPERTS for case in FILES[name].refused],
    ids=str,
)
def test_each_family_refuses_what_it_has_not(family, changes, message):
    with pytest.raises(ConversionError, match=message):
        read(family, **changes)


@pytest.mark.parametrize("family", WITH_EXPERTS)
def test_the_loss_of_the_routers_is_that_of_the_config(family):
    """As published, or as transformers has it where it isn't said."""
    (s, told), (plain, plain_told) = (
        read(family, router_aux_loss_coef=0.9, output_router_logits=True),
        read(family, router_aux_loss_coef=..., output_router_logits=...),
    )
    assert told == plain_told and (s.moe.balance_coefficient, s.moe.balances) == (0.9, True)
    expected = AutoConfig.for_model(family).router_aux_loss_coef
    assert (plain.moe.balance_coefficient, plain.moe.balances) == (expected, False)
    assert read(family, router_aux_loss_coef=None)[0].moe.balance_coefficient == 0
    with pytest.raises(ConversionError, match="router_aux_loss_coef=-1 is not supported"):
        read(family, router_aux_loss_coef=-1)


def test_gpt_oss_as_published_is_understood():
    """With an outer rope_theta and the fields of its own program."""
    yarn = {
        **{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0},
        **{"original_max_position_embeddings": 4096, "truncate": False},
    }
    extra = {"experts_per_token": 2, "initial_context_length": 4096, "rms_norm_eps": 1e-5}
    unused = {"moe_intermediate_size": ..., "shared_expert_intermediate_size": ...}
    ours, notes = read(
        "gpt_oss", rope_parameters=..., rope_scaling=yarn, rope_theta=150000, **extra, **unused
    )
    assert notes == []
    assert ours.rope.theta == 150000 and not ours.rope.scaling.whole_dimensions
    assert ours.rope == read("gpt_oss", rope_parameters={**yarn, "rope_theta": 150000})[0].rope
    assert [kind.window for kind in ours.layer_kinds] == [128, None]
    assert ours.attention_sinks and ours.qkv_bias and ours.attention_out_bias
    assert ours.norm == settings.NormSettings(scale_in_float32=True)
    assert ours.moe == moe_settings.MoeSettings(
        num_experts=6,
        experts_per_token=2,
        expert_mlp_dim=64,
        normalised_shares=True,
        clamped_swiglu=moe_settings.ClampedSwiGLU(alpha=1.702, limit=7.0),
        expert_biases=True,
        router_bias=True,
    )


@pytest.mark.parametrize("family", ["qwen2_moe", "gpt_oss"])
def test_windows_without_a_list_of_layers_are_those_of_transformers(family):
    changes = {"num_hidden_layers": 6, "sliding_window": 8, "use_sliding_window": True}
    changes |= {"max_window_layers": 3} if family == "qwen2_moe" else {"use_sliding_window": ...}
    given = {name: value for name, value in changes.items() if value is not ...}
    types = AutoConfig.for_model(family, **given).layer_types
    windows = [8 if kind == "sliding_attention" else None for kind in types]
    assert len(set(windows)) == 2
    assert [kind.window for kind in read(family, **changes)[0].layer_kinds] == windows


def test_windows_that_are_switched_off_may_have_any_length():
    for length in (0, 32768, None):
        assert read("qwen2_moe", sliding_window=length)[0] == read("qwen2_moe")[0]
        assert read("qwen3_moe", sliding_window=length)[0].layer_kinds is None


@pytest.mark.parametrize("family", WITH_EXPERTS)
def test_gguf_of_experts_is_refused(family):
    with pytest.raises(ConversionError, match=f"model_type='{family}' can't be written as GGUF"):
        architectures.by_model_type(family, "config.json")
    for name in ("llama4", "qwen3moe", "olmoe", "gpt-oss"):
        with pytest.raises(ConversionError, match=f"general.architecture='{name}'"):
            architectures.by_name(name, "model.gguf")
