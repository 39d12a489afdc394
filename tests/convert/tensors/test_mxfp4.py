"""mxfp4 blocks are unpacked as in transformers: all scales and bytes, and a whole checkpoint."""

import json
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import jaxsft
from jaxsft import config
from jaxsft.convert import pretrained
from jaxsft.convert.export.directory import export
from jaxsft.convert.tensors.mxfp4 import Dequantised, dequantise
from jaxsft.devices.mesh import make_mesh, single_device_mesh
from jaxsft.errors import ConversionError
from jaxsft.model import state
from tests.convert.families import family_cases, features
from tests.convert.families import family_measures as measures
from tests.convert.families.family_cases import Case

SIZES = {"num_key_value_heads": 4, "intermediate_size": 96}
ROPE = {"rope_parameters": features.SHARP_YARN}
CASE = Case("gpt_oss", "mxfp4", {**features.LOCAL, "head_dim": 8, **SIZES, **ROPE})
# What the published config.json says.
QUANTISED = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
UP, DOWN = "model.layers.{}.mlp.experts.gate_up_proj", "model.layers.{}.mlp.experts.down_proj"


def test_all_scales_and_bytes_are_bit_equal_to_transformers():
    scales = np.arange(256, dtype=np.uint8).reshape(2, 128, 1).repeat(16, axis=2)
    blocks = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (2, 128, 16, 16))
    ours = dequantise(blocks, scales)
    for dtype in (torch.float32, torch.bfloat16):
        theirs = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=dtype)
        assert ours.shape == tuple(theirs.shape)
        expected = theirs.float().numpy()
        np.testing.assert_array_equal(ours.view(np.int32), expected.view(np.int32))


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A tiny model in the layout of the published files: bfloat16, its experts as mxfp4."""
    directory = tmp_path_factory.mktemp("published")
    family_cases.save(CASE, directory, "bfloat16")
    rng, path = np.random.default_rng(0), directory / "model.safetensors"
    tensors = load_file(path)
    for layer in range(2):
        for name in (UP.format(layer), DOWN.format(layer)):
            experts, inputs, rows = tensors.pop(name).shape
            shape = (experts, rows, inputs // 32)
            tensors[f"{name}_blocks"] = rng.integers(0, 256, (*shape, 16)).astype(np.uint8)
            tensors[f"{name}_scales"] = rng.integers(120, 125, shape).astype(np.uint8)
    save_file(tensors, path, {"format": "pt"})
    change_config(directory, quantization_config=QUANTISED)
    return directory


def change_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change(published: Path, directory: Path, **tensors) -> Path:
    """The published model with other tensors; ... removes one."""
    directory.joinpath("config.json").write_bytes((published / "config.json").read_bytes())
    changed = load_file(published / "model.safetensors") | tensors
    kept = {name: tensor for name, tensor in changed.items() if tensor is not ...}
    save_file(kept, directory / "model.safetensors")
    return directory


def read(directory: Path, mesh=None):
    base = pretrained.open_pretrained(directory)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh or single_device_mesh())
    return base, pretrained.read_params(base, placement)


def test_a_published_model_computes_as_transformers_does(published: Path):
    """As one that dequantises at load, to bfloat16; no value needs more."""
    theirs = AutoModelForCausalLM.from_pretrained(
        published, attn_implementation="eager", quantization_config=Mxfp4Config(dequantize=True)
    )
    reference = measures.theirs(theirs.float().eval())
    with pytest.warns(UserWarning, match="mxfp4 weights are dequantised.*no quantization_config"):
        model = jaxsft.load_model(published)
    computed = measures.ours(model, pretrained.open_pretrained(published).table)
    assert measures.greatest_difference(computed.logits, reference.logits) < 1e-4


def test_an_export_has_the_values_in_bfloat16(published: Path, tmp_path: Path):
    base, params = read(published)
    export(params, base, tmp_path / "out")
    packed, plain = (load_file(d / "model.safetensors") for d in (published, tmp_path / "out"))
    for name in (UP.format(0), DOWN.format(1)):
        blocks, scales = packed[f"{name}_blocks"], packed[f"{name}_scales"]
        assert plain[name].dtype == "bfloat16"
        np.testing.assert_array_equal(plain[name].astype(np.float32), dequantise(blocks, scales))
    assert not [name for name in plain if name.endswith(("_blocks", "_scales"))]
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    with warnings.catch_warnings(action="error"):
        assert pretrained.open_pretrained(tmp_path / "out").settings == base.settings


@pytest.mark.parametrize(
    "sizes", [config.Mesh(fsdp=8), config.Mesh(fsdp=1, data=2, expert=1, tensor=4)], ids=str
)
def test_each_device_gets_its_part(published: Path, sizes: config.Mesh, monkeypatch):
    """Also where it begins within a block; and only the parts of a device are dequantised."""
    _, whole = read(published)
    counted = []

    def counting(blocks, scales):
        counted.append(blocks.size)
        return dequantise(blocks, scales)

    monkeypatch.setattr("jaxsft.convert.tensors.mxfp4.dequantise", counting)
    _, parts = read(published, make_mesh(sizes))
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    assert max(counted) <= 96 * 16  # of one expert of one part: at most 1 block of each gate


def test_what_is_not_a_pair_is_refused(published: Path, tmp_path: Path):
    name, tensors = UP.format(0), load_file(published / "model.safetensors")
    blocks, scales = tensors[f"{name}_blocks"], tensors[f"{name}_scales"]
    alone = change(published, tmp_path, **{f"{name}_scales": ...})
    with pytest.raises(ConversionError, match=f"{name}_blocks is uint8; _blocks and _scales come"):
        Dequantised(alone)
    wrong = change(published, tmp_path, **{f"{name}_scales": scales.astype(np.float32)})
    with pytest.raises(ConversionError, match=f"{name}_scales is float32; "):
        Dequantised(wrong)
    wrong = change(published, tmp_path, **{f"{name}_blocks": blocks[:, :-1]})
    with pytest.raises(ConversionError, match=r"blocks \(5, 191, 1, 16\) and scales \(5, 192, 1\)"):
        Dequantised(wrong).shape(name)
    plain = {n: ... for n in tensors if n.endswith(("_blocks", "_scales"))}
    with pytest.raises(ConversionError, match=r"says mxfp4, but no tensor is called \*_blocks"):
        Dequantised(change(published, tmp_path, **plain))


def test_infinite_values_are_refused_by_name(published: Path, tmp_path: Path):
    name = f"{DOWN.format(1)}_scales"
    scales = load_file(published / "model.safetensors")[name]
    scales[4, 3, 2] = 255
    broken = change(published, tmp_path, **{name: scales})
    with pytest.raises(ConversionError, match=f"{DOWN.format(1)} holds NaN or infinite"):
        read(broken)


def test_only_gpt_oss_has_mxfp4(published: Path, tmp_path: Path):
    change(published, tmp_path)
    change_config(tmp_path, quantization_config={"quant_method": "awq"})
    with pytest.raises(ConversionError, match=r"quantization_config=\{'quant_method': 'awq'\}"):
        pretrained.open_pretrained(tmp_path, weights=False)
