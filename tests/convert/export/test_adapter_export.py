"""An exported adapter, loaded by peft itself on transformers' model, computes what was trained."""

import dataclasses
import json
import warnings
from pathlib import Path

import adapted
import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import jaxsft
from jaxsft.config import Lora
from jaxsft.convert import pretrained
from jaxsft.convert.export import adapter_check
from jaxsft.convert.export.adapter_directory import export_adapter
from jaxsft.devices.mesh import single_device_mesh
from jaxsft.errors import ConversionError
from jaxsft.model import adapter_plan, state
from jaxsft.training import lora
from tests.convert.families import family_cases, multimodal_cases
from tests.convert.families.family_cases import CASES, Case

FIRST = {case.family: case for case in reversed(CASES)}
TOKENS = np.random.default_rng(0).integers(0, 60, (2, 11)).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Trained:
    base: pretrained.Pretrained
    base_params: state.Params
    params: state.Params
    adapters: lora.Adapters

    def logits(self, params):
        graphdef, _, _ = state.abstract(self.base.settings, "float32", "none")
        return np.asarray(jax.jit(lambda p: state.model_of(graphdef, p)(TOKENS))(params))


def trained(directory: Path, asked: Lora) -> Trained:
    """A base with adapters, and what is trained whole, that were moved at random."""
    base = pretrained.open_pretrained(directory)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    own = pretrained.read_params(base, state.shardings(shapes, axes, single_device_mesh()))
    params, made = adapted.with_adapters(base.settings, asked, own)
    return Trained(base, own, adapted.disturbed(params, made.frozen), made)


def own_names(params) -> set[str]:
    return {".".join(path) for path in nnx.traversals.flatten_mapping(params)}


def by_peft(directory: Path, auto: str = "AutoModelForCausalLM") -> np.ndarray:
    import torch
    import transformers
    from peft import PeftModel

    config = json.loads((directory / "adapter_config.json").read_text())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        base = getattr(transformers, auto).from_pretrained(
            config["base_model_name_or_path"], dtype=torch.float32, attn_implementation="eager"
        )
        model = PeftModel.from_pretrained(base, directory)
        return model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()


PLAIN = Lora(rank=3, alpha=6.0)
EVERY = ("attention", "mlp", "embedding", "head")
# What a family's own default is not: by the number of a case in CASES of one family.
VARIANTS = {
    "dora, rslora, ranks": ("llama", Lora(rank=4, rslora=True, dora=True, ranks={"mlp": 2})),
    "dora in fused matrices": ("phi3", Lora(rank=4, dora=True)),
    "dora by head": ("gpt_neox", Lora(rank=4, dora=True)),
    "some of a fused matrix": ("phi3", Lora(rank=4, targets=("q_*", "up_*"))),
    "pissa": ("llama", Lora(rank=3, init="pissa", rslora=True)),
    "pissa in fused matrices": ("phi3", Lora(rank=3, init="pissa")),
    "pissa of experts": ("mixtral", Lora(rank=2, init="pissa", targets=("experts", "router"))),
    "ends": ("olmo2", Lora(rank=4, targets=EVERY)),
    "tied ends": ("llama", Lora(rank=4, targets=("attention", "embedding"))),
    "tied ends whole": ("llama", Lora(rank=4, train_whole=("embedding", "norms"))),
    "scaled embedding": ("gemma2", Lora(rank=4, targets=("attention", "embedding"))),
    "whole ends and norms": ("olmo2", Lora(train_whole=("embedding", "head", "norms"))),
    "experts of other ranks": ("mixtral", Lora(rank=8, divide_expert_rank=True)),
    "some experts' matrices": ("qwen3_moe", Lora(targets=("router", "down_E*"))),
    "router and gates": ("qwen2_moe", Lora(targets=("router", "gate_*"), rslora=True)),
    "oss": ("gpt_oss", Lora(targets=("attention", "experts", "router"), ranks={"experts": 2})),
}


def check(case: Case, asked: Lora, tmp_path: Path) -> None:
    family_cases.save(case, tmp_path / "base")
    check_saved(asked, tmp_path)


def check_saved(asked: Lora, tmp_path: Path, auto: str = "AutoModelForCausalLM") -> None:
    ours = trained(tmp_path / "base", asked)
    own = own_names(adapter_plan.without_adapters(ours.params))
    export_adapter(
        ours.params,
        ours.base,
        tmp_path / "adapter",
        ours.adapters.specs,
        own - ours.adapters.frozen,
        rslora=asked.rslora,
    )
    expected = ours.logits(ours.params)
    base = ours.logits(ours.base_params)
    assert np.abs(expected - base).max() > 0.1
    np.testing.assert_allclose(by_peft(tmp_path / "adapter", auto), expected, rtol=1e-4, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = jaxsft.load_model(tmp_path / "adapter")
    np.testing.assert_allclose(loaded(TOKENS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", FIRST.values(), ids=str)
def test_peft_computes_what_was_trained(case: Case, tmp_path: Path):
    check(case, PLAIN, tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_computes_it_whatever_was_asked_for(variant: str, tmp_path: Path):
    family, asked = VARIANTS[variant]
    check(FIRST[family], asked, tmp_path)


@pytest.mark.parametrize("kind", ["gemma3", "mistral3"])
def test_peft_finds_the_text_part_of_a_multimodal_model(kind: str, tmp_path: Path):
    multimodal_cases.save(kind, tmp_path / "base")
    check_saved(PLAIN, tmp_path, "AutoModelForImageTextToText")


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Trained, Path]:
    family_cases.save(FIRST["llama"], tmp_path / "base")
    ours = trained(tmp_path / "base", PLAIN)
    export_adapter(ours.params, ours.base, tmp_path / "adapter", ours.adapters.specs, ())
    return ours, tmp_path / "adapter"


def test_a_tensor_of_another_name_fails_the_check(exported: tuple[Trained, Path]):
    ours, written = exported
    tensors = load_file(written / "adapter_model.safetensors")
    name = next(name for name in tensors if "q_proj.lora_B" in name)
    tensors[name.replace("q_proj", "q_project")] = tensors.pop(name)
    save_file(tensors, written / "adapter_model.safetensors")
    with pytest.raises(ConversionError, match=r"layers.0.self_attn.q_proj.weight, but .* has no"):
        adapter_check.compare(ours.params, ours.base, written)


def test_an_adapter_without_effect_is_no_export(tmp_path: Path):
    family_cases.save(FIRST["llama"], tmp_path / "base")
    ours = trained(tmp_path / "base", PLAIN)
    idle, _ = adapted.with_adapters(ours.base.settings, PLAIN, ours.base_params)
    with pytest.raises(ConversionError, match="adapter changes no logit of its base"):
        export_adapter(idle, ours.base, tmp_path / "adapter", ours.adapters.specs, ())
    assert not (tmp_path / "adapter").exists()


def test_a_changed_adapter_fails_the_check(exported: tuple[Trained, Path]):
    ours, written = exported
    tensors = load_file(written / "adapter_model.safetensors")
    name = next(name for name in tensors if "q_proj.lora_B" in name)
    tensors[name] = -tensors[name]
    save_file(tensors, written / "adapter_model.safetensors")
    with pytest.raises(ConversionError, match="its logits differ by .* from those that were train"):
        adapter_check.compare(ours.params, ours.base, written)
