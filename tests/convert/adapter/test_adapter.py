"""A LoRA adapter as PEFT saves it is merged into its base at load.

The expected weights come from the formula, in torch: PEFT is not installed for the tests. Once,
merge_and_unload of peft 0.21.2 gave the same weights to the last bit for eight configurations.
"""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import jaxsft
from jaxsft.convert import pretrained, source
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.errors import ConversionError

Q, DOWN = "model.layers.{}.self_attn.q_proj", "model.layers.{}.mlp.down_proj"
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "../model",
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["q_proj", "down_proj"],
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "bias": "none",
}


def factors(module, weight, rank):
    key = f"base_model.model.{module}"
    return {
        f"{key}.lora_A.weight": torch.randn(rank, weight.shape[1]),
        f"{key}.lora_B.weight": torch.randn(weight.shape[0], rank),
    }


@pytest.fixture
def save_adapter(save_llama, tmp_path):
    """Saves a base and an adapter on it; gives the adapter's directory, its tensors, the base's."""
    base, model = save_llama()
    weights = dict(model.state_dict())

    def save(extra=None, ranks=None, drop=(), file="adapter_model.safetensors", **changes):
        torch.manual_seed(1)
        tensors = {}
        for layer in range(2):
            for module in (Q.format(layer), DOWN.format(layer)):
                rank = (ranks or {}).get(module, 4)
                tensors |= factors(module, weights[f"{module}.weight"], rank)
        tensors |= extra or {}
        tensors = {name: t for name, t in tensors.items() if not any(d in name for d in drop)}
        directory = tmp_path / "adapter"
        directory.mkdir()
        save_file(tensors, directory / file)
        config = {k: v for k, v in {**CONFIG, **changes}.items() if v is not ...}
        (directory / "adapter_config.json").write_text(json.dumps(config))
        return directory, tensors, weights

    return save


def merged(tensors, weights, scale):
    """W + scale(module, rank) B A in float64, by Hugging Face name."""
    result = {name: w.double() for name, w in weights.items()}
    for name, a in tensors.items():
        if ".lora_A." in name:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = tensors[name.replace("lora_A", "lora_B")]
            delta = b.double() @ a.double()
            result[f"{module}.weight"] = weights[f"{module}.weight"] + scale(module, len(a)) * delta
    return result


def assert_loads_as(directory, expected, tmp_path):
    model = jaxsft.load_model(directory)
    written = Directory(jaxsft.save_model(model, tmp_path / "out").directory)
    assert sorted(written.names()) == sorted(expected)
    for name, wanted in expected.items():
        np.testing.assert_allclose(written.read(name), wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*matrices merged")
@pytest.mark.parametrize(
    ("changes", "ranks", "scale"),
    [
        ({}, {}, lambda module, rank: 6 / 4),
        ({"fan_in_fan_out": True}, {}, lambda module, rank: 6 / 4),  # as PEFT, for linear layers
        ({"use_rslora": True}, {}, lambda module, rank: 6 / 2),
        (
            {"rank_pattern": {"layers.1.self_attn.q_proj": 2}},
            {Q.format(1): 2},
            lambda module, rank: 6 / rank,
        ),
        (
            {"alpha_pattern": {r"layers.\d.mlp.down_proj": 10}},
            {},
            lambda module, rank: 10 / 4 if "down" in module else 6 / 4,
        ),
    ],
)
def test_weights_are_those_of_the_formula(changes, ranks, scale, save_adapter, tmp_path):
    directory, tensors, weights = save_adapter(ranks=ranks, **changes)
    assert_loads_as(directory, merged(tensors, weights, scale), tmp_path)


@pytest.mark.filterwarnings("ignore:.*matrices merged")
def test_saved_modules_and_embeddings_are_taken(save_adapter, tmp_path):
    key = "base_model.model."
    extra = {
        f"{key}lm_head.weight": torch.randn(96, 32),
        f"{key}model.norm.modules_to_save.default.weight": torch.randn(32),
        f"{key}model.embed_tokens.base_layer.weight": torch.randn(96, 32),
        f"{key}model.embed_tokens.lora_embedding_A": torch.randn(4, 96),
        f"{key}model.embed_tokens.lora_embedding_B": torch.randn(32, 4),
    }
    directory, tensors, weights = save_adapter(
        extra,
        target_modules=["q_proj", "down_proj", "embed_tokens"],
        modules_to_save=["lm_head", "norm"],
    )
    expected = merged(tensors, weights, lambda module, rank: 6 / 4)
    a, b = (extra[f"{key}model.embed_tokens.lora_embedding_{x}"].double() for x in "AB")
    name = "model.embed_tokens.weight"
    expected[name] = extra[f"{key}model.embed_tokens.base_layer.weight"] + 6 / 4 * (b @ a).T
    expected["lm_head.weight"] = extra[f"{key}lm_head.weight"]
    expected["model.norm.weight"] = extra[f"{key}model.norm.modules_to_save.default.weight"]
    assert_loads_as(directory, expected, tmp_path)


def test_the_base_is_found_and_said(save_adapter, save_tokenizer, tmp_path, monkeypatch):
    directory, _, _ = save_adapter()
    base = pretrained.open_pretrained(directory)
    assert base.path.resolve() == tmp_path / "model"
    assert any("4 matrices merged, 0 tensors replaced" in note for note in base.notes)
    config = json.loads((directory / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "model")
    (directory / "adapter_config.json").write_text(json.dumps(config))
    assert source.resolve(directory) == tmp_path / "model"
    config["base_model_name_or_path"] = "model"  # from where the program was started
    (directory / "adapter_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    assert source.resolve(directory).resolve() == tmp_path / "model"
    save_tokenizer(tmp_path / "model")
    assert source.tokenizer_directory(directory).resolve() == tmp_path / "model"
    save_tokenizer(directory)
    assert source.tokenizer_directory(directory) == directory


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_dora": True}, "use_dora=True is said, but model.layers.*weight has no magnitude"),
        ({"target_parameters": ["mlp.w"]}, r"target_parameters=\['mlp.w'\].*no experts or router"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"lora_bias": True}, "lora_bias=True is not supported"),
        ({"revision": "v2"}, "revision='v2' is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' changes"),
        ({"r": ...}, "r=None, expected a number"),
        ({"r": 8}, r"_proj.weight has factors \(4, .*\) and \(32, 4\), expected \(8, "),
        ({"target_modules": ["q_proj", "down_proj", "o_proj"]}, "target_modules has 'o_proj'"),
        ({"target_modules": ["c_attn"]}, r"target_modules=\['c_attn'\] match nothing in the base"),
        ({"exclude_modules": ".*"}, "target_modules=.* match nothing in the base"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save has 'lm_head'"),
        ({"drop": ("lora",)}, r"target_modules=\['q_proj', 'down_proj'\] match nothing in"),
        ({"drop": ("0.self_attn.q_proj.lora_A",)}, r"q_proj.weight has factor \['B'\] only"),
        ({"extra": {"base_model.model.x.lora_A.weight": torch.ones(4, 4)}}, "no x.weight in the"),
        ({"extra": {"base_model.model.lm_head.weight": torch.ones(97, 32)}}, r"\(97, 32\), the"),
        ({"file": "adapter_model.bin"}, "has adapter_model.bin only, a pickle"),
        ({"file": "x.safetensors"}, "adapter_model.safetensors: no such file"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path=None; name the base"),
        ({"base_model_name_or_path": "../adapter"}, "'../adapter' is an adapter itself"),
        (
            {"base_model_name_or_path": "gone/away/x"},
            "config.json: base_model_name_or_path=gone/away/x: no such",
        ),
    ],
)
def test_what_does_not_fit_is_named(arguments, message, save_adapter):
    directory, _, _ = save_adapter(**arguments)
    with pytest.raises(ConversionError, match=message):
        pretrained.open_pretrained(directory)


@pytest.mark.filterwarnings("ignore:.*/adapter")
@pytest.mark.parametrize(
    ("changes", "left", "notes"),
    [
        (
            {"target_modules": ["q_proj", "down_proj", "c_attn"], "modules_to_save": ["score"]},
            ("0.self", "1.self", "0.mlp", "1.mlp"),
            ["target_modules has 'c_attn', which", "modules_to_save has 'score', which"],
        ),
        (
            {"exclude_modules": ["layers.1.self_attn.q_proj"]},
            ("0.self", "0.mlp", "1.mlp"),
            [f"2 tensors have no effect, as in PEFT.*{Q.format(1)}.lora_A"],
        ),
        (
            {"layers_to_transform": [0], "exclude_modules": ".*down_proj"},
            ("0.self",),
            ["6 tensors have no effect"],
        ),
        (
            {"drop": ("1.self_attn.q_proj",)},
            ("0.self", "0.mlp", "1.mlp"),
            [rf"no factors for 1 of the 4 modules .* \({Q.format(1)}\)"],
        ),
    ],
)
def test_names_without_effect_are_told(changes, left, notes, save_adapter, tmp_path):
    directory, tensors, weights = save_adapter(**changes)
    told = pretrained.open_pretrained(directory).notes
    for note in notes:
        assert any(re.search(note, line) for line in told), told
    tensors = {name: t for name, t in tensors.items() if any(part in name for part in left)}
    assert_loads_as(directory, merged(tensors, weights, lambda module, rank: 6 / 4), tmp_path)


def test_an_adapter_beside_a_config_json_is_read_and_one_beside_a_model_is_not(
    save_adapter, save_tokenizer, tmp_path
):
    directory, _, _ = save_adapter()
    base = tmp_path / "model"
    shutil.copy(base / "config.json", directory)
    (directory / "optimizer.pt").write_bytes(b"of the trainer")
    opened = pretrained.open_pretrained(directory)
    assert opened.path.resolve() == base
    assert any("config.json has no effect beside adapter_config.json" in n for n in opened.notes)
    shutil.copy(base / "model.safetensors", directory)
    message = "adapter: has adapter_config.json beside config.json and model.safetensors"
    for read in (pretrained.open_pretrained, source.tokenizer_directory):
        with pytest.raises(ConversionError, match=message):
            read(directory)
    (directory / "adapter_config.json").unlink()
    (note,) = (n for n in pretrained.open_pretrained(directory).notes if "adapter" in n)
    assert "adapter_model.safetensors: has no adapter_config.json beside it and is not" in note


def test_an_adapter_of_the_hub_is_merged_too(save_adapter, monkeypatch):
    directory, _, _ = save_adapter()
    monkeypatch.setattr(
        source, "_download", lambda name, weights=True: {"org/adapter": directory}[name]
    )
    notes = pretrained.open_pretrained("org/adapter").notes
    assert any("4 matrices merged" in note for note in notes)


def test_fields_that_are_not_known_are_told(save_adapter):
    directory, _, _ = save_adapter(flux=88, new_and_off=False, lora_dropout=0.1)
    notes = pretrained.open_pretrained(directory).notes
    assert [note for note in notes if "unknown field" in note] == [
        f"{directory}: unknown field flux=88 of adapter_config.json has no effect"
    ]


@pytest.mark.filterwarnings("ignore:.*matrices merged")
def test_an_infinite_factor_is_named(save_adapter):
    name = f"base_model.model.{Q.format(1)}.lora_B.weight"
    directory, _, _ = save_adapter({name: torch.full((32, 4), torch.inf)})
    with pytest.raises(ConversionError, match="layers.1.self_attn.q_proj.lora_B.weight holds NaN"):
        jaxsft.load_model(directory)
