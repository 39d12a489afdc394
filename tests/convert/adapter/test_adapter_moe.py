"""LoRA adapters on a mixture of experts: on named matrices they merge, on fused ones they don't."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.errors import ConversionError
from tests.convert.families import family_cases, features
from tests.convert.families.family_cases import Case

CONFIG = {"peft_type": "LORA", "base_model_name_or_path": "../base", "r": 2, "lora_alpha": 6}
QUERY = "model.layers.1.self_attn.q_proj"
EXPERT = (
    "model.layers.0.block_sparse_moe.experts.3.w2"  # as PEFT saved it before experts were fused
)
FUSED = "model.layers.0.mlp.experts"


def save_adapter(tmp_path, modules: list[str], **changes):
    family_cases.save(Case("mixtral", "base", features.LOCAL), tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    rng, tensors = np.random.default_rng(0), {}
    for module in modules:
        rows, columns = weights[f"{module}.weight"].shape if module != FUSED else (32, 20)
        for name, shape in (("lora_A", (2, columns)), ("lora_B", (rows, 2))):
            factor = rng.normal(size=shape).astype(np.float32)
            tensors[f"base_model.model.{module}.{name}.weight"] = factor
    (tmp_path / "adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    return tmp_path / "adapter", tensors, weights


@pytest.mark.filterwarnings("ignore:.*2 matrices merged")
def test_named_matrices_are_merged_and_no_other_expert_changes(tmp_path):
    adapter, tensors, expected = save_adapter(tmp_path, [QUERY, EXPERT])
    for module in (QUERY, EXPERT):
        a, b = (tensors[f"base_model.model.{module}.lora_{x}.weight"] for x in "AB")
        expected[f"{module}.weight"] = expected[f"{module}.weight"] + 3 * (b @ a)
    written = jaxsft.save_model(jaxsft.load_model(adapter), tmp_path / "out").directory
    actual = load_file(written / "model.safetensors")
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        np.testing.assert_allclose(actual[name], wanted, rtol=1e-5, atol=1e-5, err_msg=name)


def test_fused_experts_that_are_not_all_there_are_refused_by_name(tmp_path):
    parameters = ["mlp.experts.gate_up_proj"]
    adapter, _, _ = save_adapter(tmp_path, [FUSED], target_parameters=parameters)
    with pytest.raises(ConversionError, match="means model.layers.1.mlp.experts.gate_up_proj, but"):
        pretrained.open_pretrained(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ConversionError, match=f"{FUSED}.lora_A.weight has no {FUSED}.weight"):
        pretrained.open_pretrained(adapter)
