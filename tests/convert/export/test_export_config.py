"""What an export says of itself: no code, one dtype; and save_model's two formats."""

import json

import pytest

import jaxsft
from jaxsft.convert.export import written_config
from jaxsft.convert.gguf.model_file import File
from jaxsft.errors import ConversionError


@pytest.mark.filterwarnings("ignore:.*auto_map")
def test_an_export_names_no_code_that_it_lacks(save_llama, save_tokenizer, edit_json, tmp_path):
    from transformers import AutoModelForCausalLM

    directory, _ = save_llama()
    save_tokenizer(directory)
    names = {"AutoConfig": "configuration_x.LlamaConfig"}
    models = names | {"AutoModelForCausalLM": "org/hub--modeling_x.LlamaForCausalLM"}
    edit_json(directory / "config.json", auto_map=models)
    edit_json(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.T", None]})
    (directory / "preprocessor_config.json").write_text('{"size": 7}')
    (directory / "vocab.json").write_text('{"auto_map": 7}')  # a token of programs
    (directory / "labels.json").write_text('["auto_map"]')
    (directory / "processor_config.json").write_text(
        '{"auto_map": {"AutoProcessor": "p.P"}, "image_config": {"auto_map": {}, "n": 1}}'
    )
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    result = jaxsft.save_model(jaxsft.load_model(directory), tmp_path / "export")
    after = {
        path.name: path.read_text() for path in result.directory.iterdir() if "json" in path.suffix
    }
    for name in ("vocab.json", "labels.json"):
        assert after.pop(name).encode() == before[name]
    assert not any("auto_map" in text for text in after.values())
    assert json.loads(after["processor_config.json"]) == {"image_config": {"n": 1}}
    tokenizer = json.loads(before["tokenizer_config.json"])
    del tokenizer["auto_map"]
    assert json.loads(after["tokenizer_config.json"]) == tokenizer
    assert after["preprocessor_config.json"].encode() == before["preprocessor_config.json"]
    (note,) = (note for note in result.notes if "auto_map" in note)
    assert "processor_config.json, tokenizer_config.json, config.json" in note
    AutoModelForCausalLM.from_pretrained(result.directory, trust_remote_code=True)


@pytest.mark.parametrize(
    ("said", "asked", "written"),
    [
        ({"dtype": "float32", "torch_dtype": "bfloat16"}, "source", "float16"),  # as the weights
        ({"dtype": "float32", "torch_dtype": "bfloat16"}, "bfloat16", "bfloat16"),
        ({"dtype": "float16", "torch_dtype": None}, "source", "float16"),
        ({"torch_dtype": "float16"}, "float32", "float32"),
        ({}, "float32", "float32"),
        ({"dtype": "float32", "torch_dtype": "torch.float32"}, "source", None),  # untouched
        ({"torch_dtype": "float32"}, "source", None),
    ],
)
def test_the_dtype_and_the_class_are_said_once_and_rightly(said, asked, written):
    parts = {"text_config": dict(said), "quantization_config": {"dtype": "int8"}}
    parts["architectures"] = ["FSDPLlamaForCausalLM"]
    config = written_config.model_config(
        said | parts, "float16" if asked == "source" else asked, asked == "source", [7]
    )
    assert config["architectures"] == ["LlamaForCausalLM"]
    expected = dict(said) if written is None else dict.fromkeys(said or ["dtype"], written)
    assert {key: config[key] for key in config if key.endswith("dtype")} == expected
    nested = dict(said) if written is None else dict.fromkeys(said, written)
    assert config["text_config"] == nested
    assert config["quantization_config"] == {"dtype": "int8"}
    assert config["eos_token_id"] == [7]


def test_save_model_writes_gguf_in_the_dtype_of_the_source(save_llama, save_tokenizer, tmp_path):
    directory, _ = save_llama(dtype="bfloat16", vocab_size=328)
    save_tokenizer(directory)
    model = jaxsft.load_model(directory)
    for name, dtype, kind in (("a", "source", "bfloat16"), ("b", "float16", "float16")):
        path = jaxsft.save_model(model, tmp_path / f"{name}.gguf", "gguf", dtype).path
        written = File(path)
        assert str(written.dtype("lm_head.weight")) == kind
    for format, dtype, refused in (
        ("safetensors", "q8_0", "dtype='q8_0'; format='safetensors' has source, float32, "),
        ("gguf", "int4", "dtype='int4'; format='gguf' has source, float32, .*q8_0"),
        ("onnx", "source", "format='onnx'; there are safetensors, gguf"),
    ):
        with pytest.raises(ConversionError, match=f"save_model: {refused}"):
            jaxsft.save_model(model, tmp_path / "x.gguf", format, dtype)
