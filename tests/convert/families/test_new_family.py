"""A new family is one object and its line in the registry: nothing else has to know of it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING, LlamaConfig

import jaxsft
from jaxsft.convert.families import gguf_names, llama, registry
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.registry import FAMILIES
from jaxsft.convert.gguf.model_file import File
from jaxsft.errors import ConversionError

SCALE = 2  # an integer: the file has to have it as a float
VOCAB = 328  # of `save_tokenizer`


def renamed(name):
    """A Llama's tensor in the new family."""
    return name.replace("model.", "decoder.", 1).replace("self_attn.q_proj", "self_attn.query")


FAMILY = Family(
    model_type="newt",
    hf_class="NewtForCausalLM",
    read=lambda fields: llama.read(fields) | {"embedding_scale": fields.positive("scale")},
    table=tuple(dataclasses.replace(row, theirs=renamed(row.theirs)) for row in llama.TABLE),
    defaults=defaults(512, mlp_bias=False, scale=SCALE),
    harmless=frozenset({"newts_have_gills"}),
    gguf=gguf_names.Architecture(
        name="newt",
        tensors={ours: renamed(theirs) for ours, theirs in llama.GGUF.tensors.items()},
        keys=gguf_names.KEYS | {"newt_scale": "scale"},
        floats=gguf_names.FLOATS | {"scale"},
        fixed=gguf_names.SILU,
    ),
)


class NewtConfig(LlamaConfig):
    model_type = "newt"
    scale: int = SCALE


@pytest.fixture
def newt(tmp_path, save_llama, save_tokenizer):
    """A directory of the new family, and the Llama that it was made of."""
    plain, _ = save_llama("plain", vocab_size=VOCAB)
    directory = tmp_path / "newt"
    directory.mkdir()
    tensors = load_file(plain / "model.safetensors")
    save_file({renamed(k): v for k, v in tensors.items()}, directory / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    config |= {"model_type": "newt", "architectures": ["NewtForCausalLM"]}
    config |= {"newts_have_gills": True}
    (directory / "config.json").write_text(json.dumps(config))
    save_tokenizer(directory)
    return directory, plain


@pytest.fixture
def known(monkeypatch):
    """It is in the registry, and transformers has it too."""
    monkeypatch.setitem(FAMILIES, FAMILY.model_type, FAMILY)
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "newt", NewtConfig)


def test_a_new_family_is_loaded_exported_and_read_back(newt, known, tmp_path):
    directory, plain = newt
    model, its_llama = jaxsft.load_model(directory), jaxsft.load_model(plain)
    assert model.settings == dataclasses.replace(its_llama.settings, embedding_scale=SCALE)
    tokens = np.arange(24, dtype=np.int32)[None]
    logits = model(tokens)
    assert np.abs(logits - its_llama(tokens)).max() > 0.01  # its own setting acts

    jaxsft.save_model(model, tmp_path / "exported")
    theirs, ours = (load_file(d / "model.safetensors") for d in (directory, tmp_path / "exported"))
    assert ours.keys() == theirs.keys() and "decoder.layers.1.self_attn.query.weight" in ours
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name, strict=True)
    jaxsft.save_model(model, tmp_path / "newt.gguf", format="gguf", dtype="float32")
    assert isinstance(File(tmp_path / "newt.gguf").metadata["newt.newt_scale"], float)
    for path in (tmp_path / "exported", tmp_path / "newt.gguf"):
        back = jaxsft.load_model(path)
        assert back.settings == model.settings
        np.testing.assert_array_equal(back(tokens), logits, err_msg=str(path))


def test_each_file_of_a_family_has_its_line():
    folder = Path(registry.__file__).parent
    written = {f.stem for f in folder.glob("*.py") if "\nFAMILY = " in f.read_text()}
    assert written == set(FAMILIES) and len(written) > 20


def test_without_its_line_it_is_refused(newt):
    with pytest.raises(ConversionError, match="model_type='newt' is not supported; llama, mistral"):
        jaxsft.load_model(newt[0])
