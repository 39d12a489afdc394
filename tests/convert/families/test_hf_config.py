"""config.json -> settings: what is understood, what is refused by name, what is only told."""

import pytest

from jaxsft.convert.families.config_json import settings_from_config
from jaxsft.convert.families.registry import FAMILIES
from jaxsft.errors import ConversionError
from jaxsft.model import settings
from tests.convert.families.family_cases import FILES, WITH_EXPERTS

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
WINDOWS = ["sliding_attention"] * 2
LONG = {"original_max_position_embeddings": 64, "max_position_embeddings": 256}


def read(**changes):
    config = {k: v for k, v in (LLAMA | changes).items() if v is not ...}
    return settings_from_config(config, "config.json")


def test_absent_fields_have_the_values_of_transformers():
    from transformers import LlamaConfig

    ours, notes = read()
    theirs = LlamaConfig(**LLAMA)
    assert notes == []
    assert ours == settings.DecoderSettings(
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
        ({"attention_bias": 1}, "attention_bias=1"),
        ({"hidden_act": "xielu"}, "hidden_act='xielu'"),
        ({"hidden_act": None}, "has no hidden_act"),
        ({"sliding_window": 8}, "sliding_window=8"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types=.*sliding_attention"),
        ({"num_local_experts": 8}, "num_local_experts=8"),
        ({"is_causal": False}, "is_causal=False"),
        ({"per_layer_config": {"0": {"head_dim": 4}}}, "per_layer_config="),
        ({"logit_scale": 0.5}, "logit_scale=0.5"),
        ({"layer_types": "full_attention"}, "layer_types='full_attention'"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config=\{'bits': 4\}"),
        ({"auto_map": {"AutoConfig": "evil.C"}}, "auto_map=.*evil.C"),
        ({"vocab_size": ...}, "has no vocab_size"),
        ({"vocab_size": "96"}, "vocab_size='96'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide.*=4"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=32"),
        ({"head_dim": 7}, "head_dim=7 .*is odd"),
        ({"hidden_size": 36}, "hidden_size=36 gives heads of 9"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps=-1.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no'"),
        ({"rope_theta": 0}, "rope_theta=0"),
        ({"rope_scaling": 4}, "rope_scaling=4"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "rope_scaling: rope_type='mrope'"),
        ({"rope_scaling": {"type": "yarn", "factor": 0}}, "rope_scaling: factor=0"),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "truncate": 1}}, "truncate=1"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters: has no factor"),
        ({"rope_parameters": {"full_attention": {}}}, r"rope_parameters: full_attention=\{\}"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1]}}, r"short_factor=\[1\].*4 num"),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, "x"]}},
            "short_factor=.*holds 'x'",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: has no factor"),
        ({"rope_scaling": {"type": "llama3", "factor": 8}}, "has no low_freq_factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
    ],
)
def test_what_is_not_supported_is_refused_by_name_and_value(changes, message):
    with pytest.raises(ConversionError, match=message):
        read(**changes)


def read_family(name, **changes):
    base = {key: value for key, value in LLAMA.items() if key != "architectures"}
    base |= {"model_type": name, "head_dim": 8, "num_key_value_heads": 4}
    return settings_from_config(base | changes, "config.json")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (name, *case)
        for name, file in FILES.items()
        for case in file.refused
        if name not in WITH_EXPERTS
    ],
)
def test_families_refuse_what_only_others_support(family, changes, message):
    with pytest.raises(ConversionError, match=message):
        read_family(family, **changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_of_every_family_are_those_of_transformers(name):
    from transformers import AutoConfig

    theirs = AutoConfig.for_model(name)
    for field, value in FAMILIES[name].defaults.items():
        if field == "sliding_window" and "use_sliding_window" in FAMILIES[name].defaults:
            continue  # transformers forgets it where use_sliding_window is false
        assert getattr(theirs, field) == value, field


@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_transformers_writes_for_a_family_is_known(name):
    from transformers import AutoConfig

    small = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(name, hidden_size=32, **small).to_dict()
    config |= {"num_key_value_heads": 4, "head_dim": 8}
    config["architectures"] = [FAMILIES[name].hf_class]
    assert settings_from_config(config, "config.json")[1] == []


def test_old_spellings_of_ropes_by_layer_mean_the_same():
    """Gemma 3 as first published: an outer theta and scaling for the layers that see all."""
    linear = {"rope_type": "linear", "factor": 8.0}
    old = read_family(
        "gemma3_text",
        **{"rope_theta": 2e6, "rope_local_base_freq": 5e3, "rope_scaling": linear},
        **{"sliding_window": 8, "sliding_window_pattern": 2},
    )
    both = {
        "full_attention": {**linear, "rope_theta": 2e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    }
    types = ["sliding_attention", "full_attention"]
    new = read_family("gemma3_text", rope_parameters=both, layer_types=types, sliding_window=8)
    assert old[0] == new[0]
    assert [kind.rope.theta for kind in old[0].layer_kinds] == [5e3, 2e6]


def test_phi3_su_is_longrope():
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    old, new = (
        read_family("phi3", rope_scaling={"type": kind, **factors}, **LONG)[0].rope
        for kind in ("su", "longrope")
    )
    assert old == new and new.scaling.original_max_positions == 64


def test_pythia_spells_the_rope_in_its_own_way():
    rope = read_family("gpt_neox", rotary_pct=0.5, rotary_emb_base=500)[0].rope
    assert (rope.theta, rope.share) == (500.0, 0.5)


def test_dropout_is_told():
    note = "config.json: attention_dropout=0.1 is not applied in training"
    assert read(attention_dropout=0.1)[1] == [note]


def test_code_of_a_standard_class_is_not_run_and_told():
    phi3 = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    (note,) = read_family("phi3", auto_map=phi3)[1]
    assert "auto_map=" in note and "is not followed" in note


@pytest.mark.parametrize(
    ("family", "changes", "line"),
    [(name, *case) for name, file in FILES.items() for case in file.without_effect],
)
def test_what_can_not_change_a_logit_is_told_and_not_refused(family, changes, line):
    base = {"sliding_window": 8} if family == "mistral" else {}
    base |= {"num_experts": 4, "num_experts_per_tok": 2} if family in WITH_EXPERTS else {}
    plain, before = read_family(family, **base)
    found, told = read_family(family, **base, **changes)
    assert found == plain
    new = [note for note in told if note not in before]
    assert len(new) == (line is not None) and all(line in note for note in new), new


def test_unknown_fields_are_told():
    assert read(mystery=[1])[1] == ["config.json: unknown field mystery=[1] has no effect"]
