"""Constants that old checkpoints keep beside their weights."""

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.errors import ConversionError
from tests.convert.families import family_cases, features
from tests.convert.families.family_cases import CASES

POSITIONS = 64
MASK = np.tri(POSITIONS, dtype=np.bool_)[None, None]
HEAD = 4  # of its 16 dimensions a quarter is rotated
FREQUENCIES = (1 / 100.0 ** (np.arange(0, HEAD, 2) / HEAD)).astype(np.float16)
# Masked scores of -1e9 are minus infinity in the float16 of Pythia's files.
PYTHIA = {
    "attention.bias": MASK,
    "attention.masked_bias": np.array(-np.inf, np.float16),
    "attention.rotary_emb.inv_freq": FREQUENCIES,
}


@pytest.fixture
def pythia(tmp_path):
    """A random GPT-NeoX as transformers 4.30 saved it; gives its directory and torch's model."""
    case = next(case for case in CASES if str(case) == "gpt_neox: parallel, a quarter rotated")
    fields = case.changes | features.rope(partial_rotary_factor=0.25)
    model = family_cases.save(family_cases.Case("gpt_neox", "old", fields), tmp_path / "model")
    put(tmp_path / "model", PYTHIA)
    return tmp_path / "model", model


def put(directory, arrays, prefix="gpt_neox.layers.{}."):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    for layer in range(2):
        tensors |= {prefix.format(layer) + name: array for name, array in arrays.items()}
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.filterwarnings("ignore:.* follow from .*not exported")
def test_those_of_pythia_change_nothing_and_are_told(pythia, torch_logits, tmp_path):
    directory, reference = pythia
    notes = pretrained.open_pretrained(directory).notes
    told = ["2 bias follow from the causal mask of 64 positions", "2 masked_bias follow from the"]
    told.append("2 rotary_emb.inv_freq follow from rope_theta=100 of config.json; not exported")
    assert [sum(line in note for note in notes) for line in told] == [1, 1, 1], notes
    model = jaxsft.load_model(directory)
    ids = np.arange(40, dtype=np.int32)[None]
    logits = nnx.jit(lambda model, ids: model(ids))(model, ids)
    np.testing.assert_allclose(logits, torch_logits(reference, ids), rtol=0, atol=1e-4)
    exported = jaxsft.save_model(model, tmp_path / "out").directory
    assert not [n for n in load_file(exported / "model.safetensors") if "attention.bias" in n]


def test_masks_in_bytes_are_read_too(pythia):
    put(pythia[0], {"attention.bias": MASK.astype(np.uint8)})
    assert any("2 bias" in note for note in pretrained.open_pretrained(pythia[0]).notes)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("attention.bias", ~MASK, "0.attention.bias differs from the causal mask of 64"),
        ("attention.bias", MASK[:, :, 1:, 1:], "0.attention.bias differs from the causal mask of"),
        ("attention.bias", MASK[0], "0.attention.bias differs from the causal mask of 64"),
        ("attention.masked_bias", np.zeros((), np.float32), "masked_bias differs from the causal"),
        ("attention.masked_bias", np.full(2, -1e9, np.float32), "masked_bias differs from the"),
        ("attention.rotary_emb.inv_freq", FREQUENCIES * 2, "inv_freq differs from rope_theta=100"),
        ("attention.dense.weight", MASK[0, 0].astype(np.uint8), "dense.weight has dtype U8; F32,"),
        ("mlp.bias", MASK, "mlp.bias has dtype BOOL"),
    ],
)
def test_other_values_are_refused(name, array, message, pythia):
    put(pythia[0], {name: array})
    with pytest.raises(ConversionError, match=message):
        pretrained.open_pretrained(pythia[0])


@pytest.mark.parametrize("theta", [1e6, 1e12])
def test_frequencies_of_old_llamas_are_checked_and_told(theta, save_llama):
    """In float16, of which the last of a large theta are among the smallest numbers, or 0."""
    directory, _ = save_llama(rope_parameters={"rope_type": "default", "rope_theta": theta})
    frequencies = (1.0 / theta ** (np.arange(0, 8, 2) / 8)).astype(np.float16)
    name = "self_attn.rotary_emb.inv_freq"
    put(directory, {name: frequencies}, "model.layers.{}.")
    (note,) = pretrained.open_pretrained(directory).notes
    assert f"2 rotary_emb.inv_freq follow from rope_theta={theta:g}" in note
    put(directory, {name: np.ones(4, np.float32)}, "model.layers.{}.")
    with pytest.raises(ConversionError, match=r"0.*inv_freq differs from rope_theta=1e"):
        pretrained.open_pretrained(directory)


LLAMA_FREQUENCIES = (1.0 / 10000.0 ** (np.arange(0, 8, 2) / 8)).astype(np.float32)
ANGLES = np.outer(np.arange(6), np.concatenate([LLAMA_FREQUENCIES] * 2)).astype(np.float32)
ONCE = "model.rotary_emb.inv_freq"


def add(directory, arrays):
    file = directory / "model.safetensors"
    save_file(load_file(file) | arrays, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        (ONCE, LLAMA_FREQUENCIES, "1 rotary_emb.inv_freq follow from rope_theta=10000 of"),
        (ONCE, LLAMA_FREQUENCIES.astype(np.float64), "1 rotary_emb.inv_freq follow from"),
        ("model.rotary_emb.max_seq_len_cached", np.array(64), "(not compared)"),
        ("model.rotary_emb.original_inv_freq", LLAMA_FREQUENCIES, "1 rotary_emb.original_inv_freq"),
        ("model.rotary_emb.cos_cached", np.cos(ANGLES), "1 rotary_emb.cos_cached follow from"),
        ("model.rotary_emb.sin_cached", np.sin(ANGLES)[None, None], "1 rotary_emb.sin_cached"),
        ("model.rotary_emb.attention_scale", np.ones(1, np.float32), "(not compared)"),
    ],
)
def test_buffers_of_one_rotary_module_are_dropped_and_told_once(name, array, told, save_llama):
    directory, _ = save_llama()
    add(directory, {name: array})
    (note,) = pretrained.open_pretrained(directory).notes
    assert told in note and note.endswith("; not exported")


@pytest.mark.parametrize(
    ("name", "array"),
    [(ONCE, LLAMA_FREQUENCIES * 2), ("model.rotary_emb.cos_cached", np.sin(ANGLES))],
)
def test_buffers_of_one_rotary_module_with_other_values_are_refused(name, array, save_llama):
    directory, _ = save_llama()
    add(directory, {name: array})
    with pytest.raises(ConversionError, match=f"{name} differs from rope_theta=10000"):
        pretrained.open_pretrained(directory)


def test_scaled_frequencies_and_those_of_each_rope_are_known(save_llama):
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    directory, _ = save_llama(rope_parameters=linear)
    add(directory, {ONCE: LLAMA_FREQUENCIES / 4})
    assert "1 rotary_emb.inv_freq follow" in pretrained.open_pretrained(directory).notes[0]
