"""GGUF files written here with the gguf package give the parameters of the model they came from."""

import builtins
import struct

import gguf
import numpy as np
import pytest
from flax import nnx

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.convert.families import tensor_table
from jaxsft.convert.gguf.model_file import File
from jaxsft.errors import ConversionError

# Quantised rows are blocks of 32.
WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32, "num_key_value_heads": 2}
# Wavelengths from 6 to 1.2 million positions: kept, blended and divided frequencies.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def params_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def assert_same(ours, theirs):
    assert tensor_table.paths(ours) == tensor_table.paths(theirs)
    for path in tensor_table.paths(ours):
        np.testing.assert_array_equal(
            tensor_table.leaf(ours, path), tensor_table.leaf(theirs, path)
        )


def run(model, ids) -> np.ndarray:
    return np.asarray(nnx.jit(lambda model, ids: model(ids))(model, ids))


@pytest.mark.parametrize("tied", [False, True])
def test_float32_parameters_equal_those_of_the_hugging_face_directory(tied, save_llama, save_gguf):
    directory, model = save_llama(head_dim=16, tie_word_embeddings=tied)
    path = save_gguf(model)
    assert_same(params_of(jaxsft.load_model(path)), params_of(jaxsft.load_model(directory)))
    ours, theirs = (pretrained.open_pretrained(p).settings for p in (path, directory))
    assert ours == theirs


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_each_weight_is_dequantised_as_the_gguf_package_does(kind, save_llama, save_gguf):
    """Rows are quantised one by one: before or after their permutation makes no difference."""
    _, model = save_llama(**WIDE)
    ggml = gguf.GGMLQuantizationType[kind]
    file = File(save_gguf(model, kind))
    for name, tensor in model.state_dict().items():
        expected = tensor.numpy()
        if expected.ndim == 2:
            expected = gguf.dequantize(gguf.quants.quantize(expected, ggml), ggml)
        np.testing.assert_array_equal(file.read(name).astype(np.float32), expected, name)
    stored = {"F16": "float16", "BF16": "bfloat16"}.get(kind, "float32")
    assert str(file.dtype("lm_head.weight")) == stored
    assert file.hf_config()["torch_dtype"] == stored


def llama3_factors(head_dim: int) -> np.ndarray:
    """Source: convert_hf_to_gguf.py of llama.cpp, LlamaModel.generate_extra_tensors."""
    factors = []
    for frequency in 1.0 / LLAMA3["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim):
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192 / 1:
            factors.append(8.0)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(factors, np.float32)


def test_llama3_scaling_is_recovered_from_its_factors(save_llama, save_gguf, torch_logits):
    _, model = save_llama(**WIDE, rope_parameters=LLAMA3)
    factors = llama3_factors(32)
    assert 1 < np.unique(factors).size  # the test would prove nothing if all were 1
    path = save_gguf(model, arrays={"rope_freqs.weight": factors})
    loaded = jaxsft.load_model(path)
    scaling = loaded.settings.rope.scaling
    assert (scaling.factor, scaling.original_max_positions) == (8.0, 8192)
    ids = np.arange(400, dtype=np.int32)[None] * 7 % 96
    np.testing.assert_allclose(run(loaded, ids), torch_logits(model, ids), rtol=0, atol=1e-4)
    factors[-1] *= 2
    path = save_gguf(model, arrays={"rope_freqs.weight": factors})
    with pytest.raises(ConversionError, match=r"rope_freqs.weight holds other factors.*16\)"):
        jaxsft.load_model(path)


def test_linear_scaling_and_turn_ends_are_read(save_llama, save_gguf):
    _, model = save_llama()
    metadata = {
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4.0,
        "tokenizer.ggml.eot_token_id": 7,
        "tokenizer.ggml.eom_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }
    base = pretrained.open_pretrained(save_gguf(model, metadata=metadata))
    assert base.settings.rope.scaling.factor == 4.0
    assert base.generation_config == {"eos_token_id": [2, 7], "bos_token_id": 1, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("metadata", "arrays", "message"),
    [
        ({"llama.rope.scaling.type": "longrope"}, {}, "llama.rope.scaling.type='longrope'"),
        ({"llama.rope.scaling.attn_factor": 1.2}, {}, "llama.rope.scaling.attn_factor=1.2 is"),
        (
            {},
            {"rope_factors_long.weight": np.ones(4, np.float32)},
            "rope_factors_long.* in llama, is not",
        ),
        ({"llama.expert_count": 8}, {}, "llama.expert_count=8"),
        ({"llama.logit_scale": 0.5}, {}, "llama.logit_scale=0.5"),
        ({"llama.rope.dimension_count": 4}, {}, "llama.rope.dimension_count=4 differs"),
        ({"llama.block_count": 3}, {}, r"num_hidden_layers=3 but .* 2 layers \(0-1\)"),
        ({"llama.block_count": ...}, {}, "llama.block_count=None"),
        ({"general.type": "adapter"}, {}, "general.type='adapter'"),
        ({"split.count": 2}, {}, "split.count=2"),
        ({"llama.vocab_size": 97}, {}, r"embed_tokens.weight has shape \(96, 32\).*\(97, 32\)"),
        ({}, {"blk.1.ffn_up.weight": ...}, "lack model.layers.1.mlp.up_proj.weight"),
        ({}, {"blk.0.attn_x.bias": np.ones(32, np.float32)}, "unexpected blk.0.attn_x.bias"),
        ({}, {"output_norm.weight": np.full(32, np.nan, np.float32)}, "norm.weight holds NaN"),
    ],
)
def test_what_can_not_be_honoured_is_named(metadata, arrays, message, save_llama, save_gguf):
    _, model = save_llama()
    path = save_gguf(model, metadata=metadata, arrays=arrays)
    with pytest.raises(ConversionError, match=message):
        jaxsft.load_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (lambda data: b"GGML" + data[4:], "is no GGUF file, it begins b'GGML'"),
        (lambda data: data[:4] + b"\x01" + data[5:], "GGUF version 1"),
        (lambda data: data[:100], "is cut short: 100 bytes"),
        (lambda data: data[:-4096], "file size .*, header says at least"),
        (lambda data: data[:16] + b"\xff" * 8 + data[24:], "is cut short|is not UTF-8"),
        (lambda data: data.replace(b"blk.1.ffn_up", b"blk.0.ffn_up"), "blk.0.ffn_up.* twice"),
        (lambda data: data.replace(b"llama.vocab", b"llama.\xffocab"), "is not UTF-8"),
    ],
)
def test_a_broken_file_is_explained(change, message, save_llama, save_gguf):
    _, model = save_llama()
    path = save_gguf(model)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConversionError, match=message):
        jaxsft.load_model(path)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def file_of(*, metadata=b"", num_values=0, tensor=b"", kind=0, dims=(4,)) -> bytes:
    """A GGUF file with one tensor, written by hand to hold what no writer would write."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, num_values + 1)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama") + metadata
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return head + text("output_norm.weight") + shape + struct.pack("<IQ", kind, 0) + bytes(4096)


def value(key: str, kind: int, raw: bytes) -> dict:
    return {"metadata": text(key) + struct.pack("<I", kind) + raw, "num_values": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (value("x", 13, b""), "metadata type 13 is unknown"),
        (value("x", 9, struct.pack("<IQ", 9, 1)), "arrays of metadata type 9"),
        (value("x", 9, struct.pack("<IQ", 4, 2**60)), "is cut short"),
        (value("x", 9, struct.pack("<IQ", 8, 2**60)), "is cut short|not UTF-8"),
        (value("general.alignment", 4, struct.pack("<I", 0)), "general.alignment=0"),
        (value("general.architecture", 8, text("qwen2")), "general.architecture is given twice"),
        ({"dims": (1,) * 5}, "a tensor has 5 dimensions"),
        ({"kind": 99}, "output_norm.weight has unknown ggml type 99"),
        ({"kind": 8, "dims": (33,)}, "rows of 33, not blocks of 32"),
        ({"dims": (2**40, 2**40)}, "file size .*, header says at least"),
    ],
    ids=range(10),
)
def test_a_malicious_header_is_refused_at_once(content, message, tmp_path):
    (tmp_path / "m.gguf").write_bytes(file_of(**content))
    with pytest.raises(ConversionError, match=message):
        File(tmp_path / "m.gguf")


def test_a_type_that_can_not_be_dequantised_is_named(tmp_path):
    (tmp_path / "m.gguf").write_bytes(file_of(kind=26))
    with pytest.raises(ConversionError, match="tensors of type I32 can't be read"):
        File(tmp_path / "m.gguf").read("model.norm.weight")


def test_another_architecture_is_refused(tmp_path):
    data = file_of().replace(text("llama"), text("mamba"))
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(ConversionError, match="general.architecture='mamba'"):
        File(tmp_path / "m.gguf")


def test_a_missing_gguf_package_is_named(save_llama, save_gguf, monkeypatch):
    path = save_gguf(save_llama()[1])
    real = builtins.__import__

    def without_gguf(name, *args, **kwargs):
        if name == "gguf":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_gguf)
    with pytest.raises(ConversionError, match=r"pip install 'jaxsft\[gguf\]'"):
        File(path)
