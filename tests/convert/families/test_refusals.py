"""Every way in which a model on disk is known to be broken: one message that names it, exit 66."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxsft
from jaxsft.convert import source
from jaxsft.errors import BAD_MODEL, ConversionError
from tests import programs

ROOT = Path(__file__).resolve().parents[3]
INDEX, FIRST = "model.safetensors.index.json", "model-00001-of-00007.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4097\n"
HTML = b"<!DOCTYPE html>\n<html><title>503 Service Unavailable</title></html>\n"
NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"


def holds(name, content):
    """A change: the file `name` has `content`."""
    return lambda directory: (directory / name).write_bytes(content)


def cut(name):
    def change(directory):
        data = (directory / name).read_bytes()
        (directory / name).write_bytes(data[:-5])

    return change


def all_of(*changes):
    return lambda directory: [change(directory) for change in changes]


def without(name):
    return lambda directory: (directory / name).unlink()


def configured(**fields):
    def change(directory):
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def mapped(name, shard):
    """A change: the index says that tensor `name` is in `shard`."""

    def change(directory):
        index = json.loads((directory / INDEX).read_text())
        index["weight_map"][name] = shard
        (directory / INDEX).write_text(json.dumps(index))

    return change


def rewritten(change_tensors, name=NORM):
    """A change to the tensors of the shard that holds `name`; the index follows."""

    def change(directory):
        index = json.loads((directory / INDEX).read_text())
        shard = index["weight_map"][name]
        tensors = load_file(directory / shard)
        change_tensors(tensors)
        save_file(tensors, directory / shard)
        others = {n: s for n, s in index["weight_map"].items() if s != shard}
        index["weight_map"] = others | dict.fromkeys(tensors, shard)
        (directory / INDEX).write_text(json.dumps(index))

    return change


def with_value(value, name=NORM):
    def change(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[3] = value

    return rewritten(change, name)


def doubled(directory):
    """A tensor of one shard is in another too."""
    tensors = load_file(directory / FIRST)
    save_file(tensors | {NORM: np.ones(32, np.float32)}, directory / FIRST)


def pickled(directory):
    for file in directory.glob("*.safetensors*"):
        file.unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n")


CASES = {
    "truncated shard": (cut(FIRST), f"{FIRST}: file size .*, header says .*download it again"),
    "missing shard": (without(FIRST), f"shard {FIRST} is missing"),
    "empty shard": (holds(FIRST, b""), f"{FIRST}: is empty"),
    "shard is an LFS pointer": (holds(FIRST, LFS), f"{FIRST}: is a Git LFS pointer.*git lfs pull"),
    "shard is a web page": (holds(FIRST, HTML), f"{FIRST}: is an HTML page"),
    "index is an LFS pointer": (holds(INDEX, LFS), "index.json: is a Git LFS pointer"),
    "index is a web page": (holds(INDEX, HTML), "index.json: is an HTML page"),
    "config is a web page": (holds("config.json", HTML), "config.json: is an HTML page"),
    "config is an LFS pointer": (holds("config.json", LFS), "config.json: is a Git LFS pointer"),
    "tokenizer is a web page": (holds("tokenizer.json", HTML), "tokenizer.json: is an HTML page"),
    "tokenizer is an LFS pointer": (holds("tokenizer.json", LFS), "tokenizer.json: is a Git LFS"),
    "template is an LFS pointer": (
        holds("chat_template.jinja", LFS),
        "jinja: is a Git LFS pointer",
    ),
    "merges are a web page": (holds("merges.txt", HTML), "merges.txt: is an HTML page"),
    "NaN": (with_value(np.nan), "model.norm.weight holds NaN"),
    "infinity": (with_value(-np.inf, UP), "1.mlp.up_proj.weight holds NaN or infinite"),
    "index points outside": (mapped(NORM, "../x.safetensors"), "'../x.safetensors' is not a plain"),
    "index names an absolute file": (mapped(NORM, "/etc/passwd"), "file '/etc/passwd' is not a"),
    "index names what is not there": (mapped("x.weight", FIRST), f"x.weight is not in {FIRST}"),
    "index names another shard": (mapped(NORM, FIRST), f"norm.weight is not in {FIRST}"),
    "fewer layers": (configured(num_hidden_layers=1), r"num_hidden_layers=1 but .* 2 layers"),
    "more layers": (configured(num_hidden_layers=3), r"num_hidden_layers=3 but .* 2 layers"),
    "other vocabulary": (configured(vocab_size=97), r"shape \(96, 32\), .*asks for \(97, 32\)"),
    "other heads": (
        configured(num_attention_heads=8),
        r"q_proj.weight has shape \(32, 32\).*\(64,",
    ),
    "other width": (configured(intermediate_size=80), r"mlp.\w+_proj.weight has shape"),
    "untied in config, no head": (
        rewritten(lambda tensors: tensors.pop("lm_head.weight"), "lm_head.weight"),
        "the weights lack lm_head.weight",
    ),
    "unknown tensor": (
        rewritten(lambda tensors: tensors.update({"model.x.weight": np.ones(3, np.float32)})),
        "unexpected model.x.weight",
    ),
    "missing tensor": (rewritten(lambda tensors: tensors.pop(UP), UP), f"the weights lack {UP}"),
    "doubled tensor": (doubled, f"model.norm.weight is in both {FIRST} and model-0000"),
    "mis-shaped tensor": (
        rewritten(lambda tensors: tensors.update({NORM: np.ones(31, np.float32)})),
        r"model.norm.weight has shape \(31,\), config.json asks for \(32,\)",
    ),
    "integer tensor": (
        rewritten(lambda tensors: tensors.update({NORM: np.ones(32, np.int8)})),
        "model.norm.weight has dtype I8; F32, F16, BF16 are supported",
    ),
    "pickle": (pickled, r"has pickled weights only \(pytorch_model.bin\)"),
    "no config": (without("config.json"), "has no config.json"),
    "unsupported family": (configured(model_type="mamba"), "model_type='mamba' is not supported"),
    "unsupported field": (configured(hidden_act="xielu"), "hidden_act='xielu'"),
    "quantised": (
        configured(quantization_config={"bits": 4}),
        "quantization_config={'bits': 4}: the weights are quantised .4 bits.; training needs",
    ),
    "quantised in a family that is not supported": (
        configured(model_type="mamba", quantization_config={"quant_method": "awq"}),
        "model_type='mamba' is not supported",
    ),
    "quantised, and its weights are integers": (
        all_of(
            rewritten(lambda tensors: tensors.update({NORM: np.ones(32, np.int32)})),
            configured(quantization_config={"quant_method": "awq", "bits": 4}),
        ),
        "the weights are quantised .awq, 4 bits.; training needs the unquantised weights",
    ),
    "quantised to fp8 by modelopt": (
        holds("hf_quant_config.json", b'{"quantization": {"quant_algo": "FP8"}}'),
        "hf_quant_config.json: .*the weights are quantised .FP8.; .*if they are not, remove",
    ),
    "quantised by bitsandbytes": (
        configured(quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"}),
        "the weights are quantised .bitsandbytes.",
    ),
    "compressed tensors of old": (
        configured(compression_config={"quant_method": "compressed-tensors"}),
        "compression_config=.*the weights are quantised .compressed-tensors.",
    ),
    "config.json of MLX": (
        configured(quantization={"group_size": 64, "bits": 4}),
        "quantization={'group_size': 64, 'bits': 4}: the weights are quantised .4 bits.",
    ),
    "another family's mxfp4": (
        configured(quantization_config={"quant_method": "mxfp4"}),
        "the weights are quantised .mxfp4.",
    ),
    "tokenizer is cut": (cut("tokenizer.json"), "tokenizer.json: is no whole JSON file"),
    "no weights": (
        lambda directory: [file.unlink() for file in directory.glob("model*")],
        "has neither model.safetensors nor .* for its model_type='llama'",
    ),
    "code of its own": (
        configured(auto_map={"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"}),
        "auto_map=.*modeling_evil.EvilForCausalLM.*code that comes with a model is not run",
    ),
}


@pytest.fixture
def model(save_llama, save_tokenizer):
    """A sound model in shards, with its tokenizer."""
    directory, _ = save_llama(max_shard_size="20KB")
    save_tokenizer(directory)
    assert (directory / FIRST).is_file()
    open_all(directory)
    return directory


def open_all(path):
    source.tokenizer_directory(path)
    jaxsft.load_model(path)


def assert_refused(path, message):
    with pytest.raises(ConversionError, match=message) as refused:
        open_all(path)
    assert refused.value.exit_code == BAD_MODEL == 66
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize("case", CASES)
def test_a_broken_directory_is_refused_by_name(case, model):
    change, message = CASES[case]
    change(model)
    assert_refused(model, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-5], "file size .*, header says at least .*download it again"),
        (lambda data: LFS, "is a Git LFS pointer"),
        (lambda data: HTML, "is an HTML page"),
        (lambda data: b"PK\x03\x04" + data, "is no GGUF file, it begins b'PK"),
        (lambda data: data.replace(b"blk.1.attn_k", b"blk.1.attn_j"), "lack .*1.self_attn.k_proj"),
        (lambda data: data.replace(b"blk.1.attn_k", b"blk.0.attn_k"), "attn_k.weight.* twice"),
    ],
    ids=["truncated", "LFS pointer", "web page", "zip", "other name", "doubled"],
)
def test_a_broken_gguf_file_is_refused_by_name(change, message, save_llama, save_gguf):
    path = save_gguf(save_llama()[1])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConversionError, match=message) as refused:
        jaxsft.load_model(path)
    assert refused.value.exit_code == BAD_MODEL and str(path) in str(refused.value)


def test_the_trainer_says_it_in_one_line(save_llama, tmp_path):
    """A NaN is found last of all, when the weights are read."""
    model, _ = save_llama(max_shard_size="70KB", vocab_size=512)
    with_value(np.nan)(model)
    flags = [f"--config.model.source={model}", "--config.model.weights=pretrained"]
    flags += [f"--config.data.tokenizer={ROOT / 'configs' / 'debug_model'}"]
    done = programs.train(tmp_path / "run", *flags, check=False)
    assert done.returncode == BAD_MODEL, done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
    assert f"{model}: model.norm.weight holds NaN or infinite values" in done.stderr
