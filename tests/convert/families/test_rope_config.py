"""rope_scaling, rope_parameters and what lies around them, as transformers 5 reads them.

R: rotation.
"""

import copy
import importlib
import logging
import random

import numpy as np
import pytest
import transformers

from jaxsft.convert.families.config_json import settings_from_config
from jaxsft.convert.families.registry import FAMILIES
from jaxsft.convert.gguf import hyperparameters
from jaxsft.errors import ConversionError
from jaxsft.model import rope as rope_lib
from tests.convert.families.family_cases import WITH_EXPERTS

SIZES = {
    **{"vocab_size": 96, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16},
    **{"max_position_embeddings": 64, "sliding_window": 8},
}
EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
}
# The window is for some or all layers, without a switch.
WITH_WINDOWS = {
    name
    for name, family in FAMILIES.items()
    if "sliding_window" in family.defaults and "use_sliding_window" not in family.defaults
}
ROPES = {name: transformers.AutoConfig.for_model(name).rope_parameters for name in FAMILIES}
BY_TYPE = {name for name, rope in ROPES.items() if "full_attention" in rope}
KINDS = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4},
    "longrope": {"factor": 2.0},
}
# What may stand in any rope's object, read or not.
EXTRAS = {
    **{"original_max_position_embeddings": 16, "rope_theta": 5000.0, "beta_fast": 16.0},
    **{"mscale": 0.7, "mscale_all_dim": 1.3, "attention_factor": 1.1, "truncate": False},
    **{"attn_factor": 0.8, "mrope_section": [2, 3, 3], "type": "linear", "rope_type": "yarn"},
}
OUTER = {
    **{"rope_theta": 500.0, "original_max_position_embeddings": 32, "rotary_pct": 0.25},
    **{"rope_local_base_freq": 700.0, "rotary_emb_base": 300},
}


def some(choose, values, share):
    return {name: value for name, value in values.items() if choose.random() < share}


def random_rope(choose, family):
    kind = choose.choice([*KINDS, "yarn"])
    found = {choose.choice(["rope_type", "rope_type", "type"]): kind, **KINDS[kind]}
    if kind == "longrope":
        count = int(8 * ROPES[family].get("partial_rotary_factor", 1.0))
        found["short_factor"] = [1 + 0.1 * i for i in range(count)]
        found["long_factor"] = [2 + 0.1 * i for i in range(count)]
    return found | some(choose, EXTRAS, 0.12)


def random_config(choose, family):
    config = {**SIZES, "model_type": family} | (EXPERTS if family in WITH_EXPERTS else {})
    if family not in WITH_WINDOWS:
        del config["sliding_window"]
    if choose.random() < 0.6:
        config["rope_scaling"] = choose.choice([None, {}, *[random_rope(choose, family)] * 3])
    if choose.random() < 0.7:
        found = random_rope(choose, family)
        if family in BY_TYPE:
            found = {"full_attention": found, "sliding_attention": random_rope(choose, family)}
        config["rope_parameters"] = choose.choice([None, found, found])
    return config | some(choose, OUTER, 0.15)


def theirs(config):
    """Frequencies and the factor of queries and keys by type of layer, as transformers has them.

    Raises:
        Exception: of any kind: it does not check what it reads.
    """
    family = config["model_type"]
    module = family.removesuffix("_text")
    module = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    kind = next(name for name in vars(module) if name.endswith("RotaryEmbedding"))
    completed = transformers.CONFIG_MAPPING[family].from_dict(copy.deepcopy(config))
    rotary = getattr(module, kind)(completed)
    prefixes = [f"{one}_" for one in set(completed.layer_types)] if family in BY_TYPE else [""]
    return {
        prefix: (getattr(rotary, f"{prefix}inv_freq").numpy(), read_scale(rotary, prefix))
        for prefix in prefixes
    }


def read_scale(rotary, prefix):
    return float(getattr(rotary, f"{prefix}attention_scaling"))


def ours(config):
    decoder, _ = settings_from_config(copy.deepcopy(config), "config.json")
    ropes = {"": decoder.rope, "full_attention_": decoder.rope}
    sliding = next((kind.rope for kind in decoder.kinds() if kind.window), None)
    ropes["sliding_attention_"] = sliding
    return {
        prefix: (
            rope_lib.inverse_frequencies(one, decoder.head_dim),
            getattr(one.scaling, "attention_factor", 1.0),
        )
        for prefix, one in ropes.items()
        if one is not None
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_random_ropes_are_those_of_transformers_or_refused(family):
    choose, compared = random.Random(family), 0
    logging.disable(logging.WARNING)
    try:
        for _ in range(24):
            config = random_config(choose, family)
            try:
                found = ours(config)
                expected = theirs(config)
            except Exception:  # refused here, or not understood there
                continue
            for prefix, (frequencies_R, scale) in expected.items():
                np.testing.assert_allclose(found[prefix][0], frequencies_R, 1e-5, err_msg=config)
                assert found[prefix][1] == pytest.approx(scale), config
            compared += 1
    finally:
        logging.disable(logging.NOTSET)
    assert compared >= 6


LLAMA = {**SIZES, "model_type": "llama", "sliding_window": None}
DEFAULT = {"rope_type": "default", "rope_theta": 5e6}
LINEAR = {"rope_type": "linear", "factor": 4.0}


def test_rope_scaling_takes_the_place_of_rope_parameters_and_that_is_told():
    both = LLAMA | {"rope_parameters": DEFAULT, "rope_scaling": LINEAR | {"rope_theta": 5e6}}
    found, told = settings_from_config(both, "config.json")
    assert found.rope.theta == 5e6 and found.rope.scaling.factor == 4.0
    assert ["rope_scaling=" in line and "rope_parameters=" in line for line in told] == [True]
    written = hyperparameters.from_config(both, "config.json").metadata
    assert written["llama.rope.scaling.factor"] == 4.0 and written["llama.rope.freq_base"] == 5e6


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_what_has_no_effect_on_a_rope_is_not_asked_of_gguf(kind):
    plain = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    extra = plain | {"attn_factor": 0.88, "mrope_section": [2, 3, 3], "attention_factor": None}
    one, other = (
        hyperparameters.from_config(LLAMA | {"rope_parameters": {**rope}}, "config.json").metadata
        for rope in (plain, extra)
    )
    assert one == other and one["llama.rope.scaling.factor"] == 4.0


def test_the_same_rope_under_both_names_is_no_news():
    both = LLAMA | {"rope_parameters": DEFAULT, "rope_scaling": DEFAULT}
    assert settings_from_config(both, "config.json")[1] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (  # the line of a README put into a checkpoint of transformers 5: its theta would be lost
            {"rope_parameters": DEFAULT, "rope_scaling": LINEAR},
            "rope_scaling=.*'factor': 4.0.*rope_parameters=.*5000000.0.*with its rope_theta",
        ),
        (
            {"rope_parameters": DEFAULT, "rope_scaling": LINEAR, "rope_theta": 10000.0},
            "rope_scaling=.*rope_parameters=.*with its rope_theta",
        ),
        (
            {"model_type": "phi3", "rope_parameters": {"partial_rotary_factor": 0.5}}
            | {"rope_scaling": {"rope_type": "default"}},
            "rope_scaling=.*rope_parameters=.*with its partial_rotary_factor",
        ),
        (
            {"model_type": "gemma3_text", "sliding_window": 8}
            | {"rope_scaling": {"type": "linear", "factor": 8.0}},
            "rope_scaling=.*type='linear', which transformers ignores.*spell it rope_type",
        ),
        (
            {"model_type": "gemma3_text", "sliding_window": 8, "rope_scaling": LINEAR}
            | {"rope_parameters": {"sliding_attention": DEFAULT}},
            "rope_scaling=.*stands beside rope_parameters without full_attention",
        ),
        ({"rope_parameters": {"full_attention": DEFAULT}}, "full_attention=.*has one rope"),
        ({"model_type": "gpt_neox", "rope_theta": 5.0}, "rope_theta=5.0 is not supported; 10000"),
        ({"rope_scaling": {"type": "mrope"}}, "rope_type='mrope'.*for text alone it is 'default'"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, r"rope_type=\['yarn'\] is not supported"),
    ],
)
def test_ropes_that_say_two_things_are_refused_by_name(changes, message):
    with pytest.raises(ConversionError, match=message):
        settings_from_config(LLAMA | changes, "config.json")


def test_rope_scaling_changes_the_full_layers_of_a_model_with_two_ropes():
    both = {"full_attention": DEFAULT, "sliding_attention": {"rope_theta": 1e4}}
    config = SIZES | {"model_type": "gemma3_text", "rope_parameters": both, "rope_scaling": LINEAR}
    found, told = settings_from_config(config, "config.json")
    assert found.rope.theta == 5e6 and found.rope.scaling.factor == 4.0
    assert sum("is put into rope_parameters.full_attention" in line for line in told) == 1


def test_gpt_oss_without_a_rope_has_that_of_transformers():
    config = SIZES | EXPERTS | {"model_type": "gpt_oss"}
    scaling = settings_from_config(config, "config.json")[0].rope.scaling
    assert scaling.factor == 32 and not scaling.whole_dimensions
