"""Which modules an adapter_config.json means: as PEFT matches their names.

The expected names are written down by hand from peft 0.21.2's check_target_module_exists.
"""

import json

import pytest

from jaxsft.convert.adapter.config import AdapterConfig
from jaxsft.errors import ConversionError

LINEAR = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1, 11)
    for name in ("self_attn.q_proj", "mlp.up_proj", "mlp.experts.1.up_proj")
]
OTHERS = ["model.embed_tokens", "lm_head", "model.norm"]
UP = [name for name in LINEAR if name.endswith("up_proj")]


@pytest.fixture
def config(tmp_path):
    def read(**fields):
        file = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **fields}
        (tmp_path / "adapter_config.json").write_text(json.dumps(file))
        return AdapterConfig(tmp_path)

    return read


def chosen(*parts):
    return [name for name in LINEAR if any(part in name for part in parts)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target_modules": ["up_proj", "c_attn"]}, UP),
        ({"target_modules": ["p_proj"]}, []),  # no part of a name
        ({"target_modules": ["layers.1.mlp.up_proj"]}, ["model.layers.1.mlp.up_proj"]),
        ({"target_modules": r".*\.1\.(mlp|self_attn)\.[a-z_]*"}, chosen("s.1.m", "s.1.s")[:2]),
        ({"target_modules": "up_proj"}, []),  # an expression has to match the whole name
        ({"target_modules": "ALL-linear"}, LINEAR),
        ({"target_modules": "all-linear", "exclude_modules": ["up_proj"]}, chosen("q_proj")),
        (
            {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*\.(0|11)\..*"},
            chosen("layers.1."),
        ),
        (
            {"target_modules": ["up_proj"], "exclude_modules": ["mlp.up_proj", "1.up_proj"]},
            [],
        ),
        ({"target_modules": ["up_proj"], "layers_to_transform": 1}, chosen("layers.1.mlp")),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [0, 11]},
            chosen("0.self", "11.self"),
        ),
        ({"target_modules": ["q_proj"], "layers_to_transform": []}, chosen("q_proj")),
        (
            {"target_modules": ["up_proj"], "layers_to_transform": 1, "layers_pattern": "experts"},
            chosen("experts"),
        ),
        (
            {
                **{"target_modules": ["q_proj"], "layers_to_transform": [1]},
                "layers_pattern": ["h", "layers"],
            },
            chosen("layers.1.self"),
        ),
        # A name in full is meant in whatever layer it is.
        ({"target_modules": [LINEAR[0]], "layers_to_transform": [7]}, [LINEAR[0]]),
        (
            {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
            chosen("q_proj"),
        ),
        ({"target_modules": ["norm", "lm_head"]}, ["lm_head", "model.norm"]),
        ({"target_modules": []}, []),
    ],
)
def test_modules_that_get_factors(fields, expected, config):
    rules = config(**fields)
    assert [name for name in [*LINEAR, *OTHERS] if rules.targeted(name, LINEAR)] == expected


def test_the_first_pattern_that_matches_the_end_of_a_name_counts(config):
    rules = config(
        rank_pattern={"q_proj": 2, r"layers\.1\..*": 16},
        alpha_pattern={"self_attn.q_proj|mlp.up_proj": 3, "_proj": 5},
    )
    ranks = [rules.rank(name) for name in LINEAR[:5]]
    assert ranks == [2, 4, 4, 2, 16]  # the second one of layer 1 only, q_proj by the first pattern
    assert [rules.scale(name) for name in LINEAR[:3]] == [3 / 2, 3 / 4, 8 / 4]
    assert config(use_rslora=True).scale("x") == 8 / 4**0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": 7}, "target_modules=7 is not supported; expected a list of names"),
        ({"target_modules": ["q", 1]}, r"target_modules=\['q', 1\] is not supported"),
        ({"exclude_modules": {"a": 1}}, "exclude_modules={'a': 1} is not supported"),
        ({"modules_to_save": [None]}, r"modules_to_save=\[None\] is not"),
        ({"layers_to_transform": ["1"]}, r"layers_to_transform=\['1'\] .* numbers of layers"),
        ({"layers_to_transform": "1"}, "layers_to_transform='1' is not"),
        ({"rank_pattern": {"q": "8"}}, "rank_pattern={'q': '8'} .* a number for each pattern"),
        ({"alpha_pattern": [8]}, r"alpha_pattern=\[8\] is not"),
        ({"target_modules": "*proj"}, r"target_modules='\*proj' is no regular expression \(noth"),
        ({"target_modules": ["x"], "exclude_modules": "("}, r"exclude_modules='\(' is no regular"),
        ({"rank_pattern": {"[": 1}}, r"rank_pattern={'\[': 1} is no regular expression"),
        ({"kasa_config": {"beta": 1}}, "kasa_config={'beta': 1} is not supported; None is"),
        ({"lora_dropout": 1}, "lora_dropout=1 is not supported; expected a share below 1"),
        ({"lora_alpha": True}, "lora_alpha=True, expected a number"),
    ],
)
def test_what_can_not_be_read_is_named(fields, message, config):
    with pytest.raises(ConversionError, match=message):
        rules = config(**fields)
        rules.targeted("a.x", ())
        rules.rank("a.x")
        assert rules.dropout < 1
