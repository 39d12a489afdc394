"""config.json -> settings: what is understood, what is refused by name, what is only told."""

import pytest

from jaxsft.convert.hf_config import settings_from_config
from jaxsft.errors import ConversionError
from jaxsft.model import settings

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def read(**changes):
    config = {k: v for k, v in (LLAMA | changes).items() if v is not ...}
    return settings_from_config(config, "config.json")


def test_absent_fields_have_the_values_of_transformers():
    from transformers import LlamaConfig

    ours, notes = read()
    theirs = LlamaConfig(**LLAMA)
    assert notes == []
    assert ours == settings.Decoder(
        vocab_size=96,
        num_layers=2,
        embed_dim=32,
        num_heads=theirs.num_attention_heads,
        num_kv_heads=theirs.num_key_value_heads,
        head_dim=theirs.head_dim,
        mlp_dim=64,
        norm_eps=theirs.rms_norm_eps,
        rope=settings.Rope(theta=theirs.rope_parameters["rope_theta"]),
        tied_embeddings=theirs.tie_word_embeddings,
        max_positions=theirs.max_position_embeddings,
        init_stddev=theirs.initializer_range,
    )


def test_all_that_transformers_writes_is_known():
    from transformers import LlamaConfig

    _, notes = settings_from_config(LlamaConfig(**LLAMA).to_dict(), "config.json")
    assert notes == []


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope_type": "default"}, None),
        ({"type": "linear", "factor": 2}, settings.LinearScaling(factor=2.0)),
        ({"rope_type": "linear", "factor": 2.5}, settings.LinearScaling(factor=2.5)),
        (
            {"rope_type": "llama3", **LLAMA3},
            settings.Llama3Scaling(
                factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64
            ),
        ),
    ],
)
def test_both_spellings_of_rope_mean_the_same(scaling, expected):
    rope = settings.Rope(theta=500.0, scaling=expected)
    assert read(rope_scaling=scaling, rope_theta=500)[0].rope == rope
    assert read(rope_parameters={**scaling, "rope_theta": 500.0})[0].rope == rope


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type='mamba'"),
        ({"model_type": ...}, "model_type=None"),
        ({"architectures": ["LlamaForTokenClassification"]}, "LlamaForTokenClassification"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"pretraining_tp": 2}, "pretraining_tp=2"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config=\{'bits': 4\}"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ({"auto_map": {"AutoConfig": "evil.C"}}, "auto_map=.*evil.C"),
        ({"vocab_size": ...}, "has no vocab_size"),
        ({"vocab_size": "96"}, "vocab_size='96'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide.*=4"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=32"),
        ({"head_dim": 7}, "head_dim=7 is odd"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no'"),
        ({"rope_theta": 0}, "rope_theta=0"),
        ({"rope_scaling": 4}, "rope_scaling=4"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope_scaling: rope_type='yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters: rope_type='dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: has no factor"),
        ({"rope_scaling": {"type": "llama3", "factor": 8}}, "has no low_freq_factor"),
        ({"rope_scaling": {"type": "default", "mscale": 2}}, "rope_scaling: mscale=2"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_and_value(changes, message):
    with pytest.raises(ConversionError, match=message):
        read(**changes)


def test_unknown_fields_are_told():
    assert read(mystery=[1])[1] == ["config.json: unknown field mystery=[1] has no effect"]
