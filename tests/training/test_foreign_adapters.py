"""Adapters that peft itself made go on here: config.model.adapter begins at peft's own logits."""

import warnings

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxsft
from jaxsft import config
from jaxsft.convert import pretrained
from jaxsft.devices.mesh import single_device_mesh
from jaxsft.errors import ConversionError
from jaxsft.model import adapter_plan, state
from jaxsft.training import first_state, parameters, started_adapter
from tests.convert.families import family_cases
from tests.convert.families.family_cases import CASES

FIRST = {case.family: case for case in reversed(CASES)}
TOKENS = np.random.default_rng(0).integers(0, 60, (2, 11)).astype(np.int32)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# By family: what peft.LoraConfig is given beside a rank of 4 and an alpha of 6.
ADAPTERS = {
    "defaults": ("llama", {"lora_dropout": 0.1}),
    "all linear": ("qwen3", {"target_modules": "all-linear"}),
    "rank_pattern": (
        "llama",
        {"target_modules": LINEAR, "rank_pattern": {"down_proj": 2, r"layers\.1\..*v_proj": 3}},
    ),
    "rank_pattern, alpha_pattern": (
        "llama",
        {
            "target_modules": LINEAR,
            "rank_pattern": {r"^model.layers.1.self_attn.q_proj": 7},
            "alpha_pattern": {"q_proj": 3, "up_proj|o_proj": 20},
            "exclude_modules": ["k_proj"],
        },
    ),
    "layers_to_transform": ("llama", {"target_modules": LINEAR, "layers_to_transform": [1]}),
    "layers_pattern": (
        "llama",
        {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
    ),
    "use_rslora": (
        "mistral",
        {"target_modules": LINEAR, "use_rslora": True, "rank_pattern": {"q_proj": 9}},
    ),
    "dora, rslora, patterns": (
        "llama",
        {
            "target_modules": LINEAR,
            "use_dora": True,
            "use_rslora": True,
            "rank_pattern": {"up_proj": 2},
        },
    ),
    "fused matrices": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    "modules_to_save": (
        "olmo2",
        {"target_modules": LINEAR, "modules_to_save": ["lm_head", "norm"]},
    ),
    "tied embedding saved": (
        "llama",
        {
            **{"target_modules": LINEAR, "modules_to_save": ["embed_tokens"]},
            "ensure_weight_tying": True,
        },
    ),
    "expression": ("llama", {"target_modules": r".*\.1\.(self_attn\.[qv]|mlp\.up)_proj"}),
    "ends": ("olmo2", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "target_parameters": (
        "mixtral",
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
    "one target parameter": (
        "qwen3_moe",
        {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]},
    ),
}


def made_by_peft(case, fields, directory):
    """Writes a base, and an adapter on it whose numbers are all at random; peft's logits."""
    import peft
    import torch
    import transformers

    family_cases.save(case, directory / "base")
    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForCausalLM.from_pretrained(
            directory / "base", dtype=torch.float32, attn_implementation="eager"
        )
        asked = peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **fields)
        model = peft.get_peft_model(base, asked).eval()
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(directory / "adapter")
        return model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()


def begun(directory):
    """What a run with config.model.adapter begins with: its config, model and parameters."""
    base = pretrained.open_pretrained(directory / "base")
    asked = config.Config(
        model=config.Model(source=str(directory / "base"), adapter=str(directory / "adapter")),
        data=config.Data(train=(config.Source(path="x"),), sequence_length=32),
        optim=config.Optim(peak_lr=1e-4),
        train=config.Train(batch_size=1, steps=1),
    )
    asked = started_adapter.resolved(asked, base)
    declared = parameters.declare(asked, base.settings)
    placement = state.shardings(declared.shapes, declared.axes, single_device_mesh())
    own = pretrained.read_params(base, adapter_plan.without_adapters(placement))
    params = first_state.with_adapters(
        asked, base, declared.adapters, declared.frozen, placement, own
    )
    return asked, base, params


def logits(base, params):
    graphdef, _, _ = state.abstract(base.settings, "float32", "none")
    return np.asarray(jax.jit(lambda p: state.model_of(graphdef, p)(TOKENS))(params))


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_run_begins_at_the_logits_of_peft(name, tmp_path):
    family, fields = ADAPTERS[name]
    expected = made_by_peft(FIRST[family], fields, tmp_path)
    asked, base, params = begun(tmp_path)
    assert asked.lora.dropout == fields.get("lora_dropout", 0.0)
    found = logits(base, params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    without = logits(base, adapter_plan.without_adapters(params))
    assert np.abs(found - without).max() > 1e-2 or asked.lora.train_whole
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = jaxsft.load_model(tmp_path / "adapter")  # by the other reader
    np.testing.assert_allclose(merged(TOKENS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"target_modules": ["q_proj"], "use_dora": True, "layers_to_transform": [1]},
            "layers.attention.q_DNH of layer 0 has no adapter, and those of others have DoRA",
        ),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
            "changes the embedding and the head of a tied base apart",
        ),
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            "changes the embedding and the head of a tied base apart",
        ),
    ],
)
def test_what_would_begin_elsewhere_is_refused(fields, message, tmp_path):
    made_by_peft(FIRST["llama"], fields, tmp_path)
    with pytest.raises(ConversionError, match=message):
        begun(tmp_path)


def test_another_base_in_the_adapter_is_refused(tmp_path):
    made_by_peft(FIRST["olmo2"], {"target_modules": ["lm_head"]}, tmp_path)
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": 2 * tensors["lm_head.weight"]}, file, {"format": "pt"})
    with pytest.raises(ConversionError, match="lm_head.base_layer.weight is not the base's lm_he"):
        begun(tmp_path)
