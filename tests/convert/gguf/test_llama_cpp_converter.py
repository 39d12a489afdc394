"""What llama.cpp's own programs make of the same models and tokenizers.

Needs JAXSFT_LLAMA_CPP_SOURCE, a folder with the source of llama.cpp: convert_hf_to_gguf.py, gguf-py
and models/. It is vendor/llama.cpp in the source distribution of llama-cpp-python (0.3.36).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from sentencepiece import SentencePieceProcessor

import jaxsft
from jaxsft.convert.export import gguf_file
from jaxsft.convert.families import tensor_table
from jaxsft.convert.gguf import header as gguf_header
from jaxsft.convert.gguf import tokenizer as gguf_tokenizer
from jaxsft.convert.gguf import vocabulary as gguf_vocab
from jaxsft.convert.gguf.model_file import File
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.files import untrusted
from jaxsft.model.settings import LongRopeScaling

VOCAB_SIZES = {"smollm2": 49152, "qwen3": 151936, "mistral_v1": 32000, "mistral_v3": 32768}
ROPE = {"rope_theta": 1e4, "original_max_position_embeddings": 128}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 5e5, "original_max_position_embeddings": 8192},
    **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 2.5], **ROPE}
LONGROPE["long_factor"] = [3.0, 4.0, 5.0, 6.5]
PARTIAL = LONGROPE | {"partial_rotary_factor": 0.75}  # 6 dimensions of 8
PARTIAL |= {f"{kind}_factor": LONGROPE[f"{kind}_factor"][:3] for kind in ("short", "long")}
CASES = [
    ("llama", "smollm2", {"attention_bias": True}),
    ("llama", "smollm2", {"rope_parameters": LLAMA3, "max_position_embeddings": 16384}),
    ("mistral", "mistral_v3", {}),
    ("qwen2", "qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **ROPE}}),
    ("qwen3", "qwen3", {}),
    ("gemma", "mistral_v1", {}),
    ("gemma2", "mistral_v1", {}),
    ("gemma3_text", "mistral_v1", {}),
    ("phi3", "mistral_v1", {"rope_parameters": LONGROPE, "sliding_window": 512}),
    ("phi3", "mistral_v1", {"rope_parameters": PARTIAL, "sliding_window": 512}),
]
# What theirs says otherwise, or says and ours doesn't.
OTHERWISE = {
    *("general.name", "general.size_label", "general.version"),
    "general.tags",
    "gemma3.rope.freq_base_swa",  # 10000, which is llama.cpp's default
    "tokenizer.ggml.token_type",  # of <|fim_prefix|> and the like, by the look of their names
    "tokenizer.ggml.bos_token_id",  # from config.json where the tokenizer has none
    "tokenizer.ggml.eot_token_id",  # a guess from the name of the family
    "tokenizer.ggml.add_space_prefix",  # always false for gemma, whatever the tokenizer says
}


@pytest.fixture(scope="module")
def llama_cpp_source():
    folder = os.environ.get("JAXSFT_LLAMA_CPP_SOURCE")
    if not folder:
        pytest.skip("needs JAXSFT_LLAMA_CPP_SOURCE, a folder with the source of llama.cpp")
    return Path(folder)


@pytest.mark.parametrize(("family", "tokenizer", "changes"), CASES)
def test_its_converter_writes_the_same_file(
    family, tokenizer, changes, llama_cpp_source, assets, save_family, tmp_path
):
    """And its file reads as the directory that it was made from."""
    directory, _ = save_family(family, vocab_size=VOCAB_SIZES[tokenizer], **changes)
    for file in (assets / "tokenizers" / tokenizer).iterdir():
        shutil.copy(file, directory)
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    header = run_converter(llama_cpp_source, directory, tmp_path)
    config = untrusted.read_json(directory / "config.json")
    gguf_file.write(Directory(directory), config, ours, directory, "f32", None, [2])
    assert_same_header(header, gguf_header.read(ours))
    files = File(theirs), File(ours)
    assert set(files[0].names()) == set(files[1].names())
    for name in files[0].names():
        np.testing.assert_array_equal(files[0].raw(name), files[1].raw(name), err_msg=name)
    assert_same_model(jaxsft.load_model(theirs), jaxsft.load_model(directory))


def test_its_converter_adds_the_same_tokens_to_a_sentencepiece_model(
    llama_cpp_source, assets, save_family, tmp_path
):
    directory, _ = save_family("llama", vocab_size=32004)
    shutil.copy(assets / "tokenizers" / "mistral_v1" / "tokenizer.model", directory)
    pieces = SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    special = {32000: "<|im_end|>", 31000: pieces.id_to_piece(31000)}
    decoder = {str(i): {"content": t, **flags, "special": True} for i, t in special.items()}
    decoder["32001"] = {"content": "<x>", **flags, "special": False}
    named = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", **named, "add_bos_token": True}
    (directory / "tokenizer_config.json").write_text(
        json.dumps(config | {"added_tokens_decoder": decoder})
    )
    (directory / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 32000, "<x>": 32001}))
    theirs = run_converter(llama_cpp_source, directory, tmp_path).metadata
    ours, _ = gguf_vocab.metadata(directory, 32004, [], None)
    for key in ("tokens", "token_type", "bos_token_id"):
        assert theirs[f"tokenizer.ggml.{key}"] == ours[f"tokenizer.ggml.{key}"], key


def run_converter(source, directory, tmp_path):
    program = [sys.executable, source / "convert_hf_to_gguf.py", directory]
    path = tmp_path / "theirs.gguf"
    done = subprocess.run(
        [*program, "--outfile", path, "--outtype", "f32"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return gguf_header.read(path)


def assert_same_header(theirs, ours):
    assert theirs.metadata.keys() - ours.metadata.keys() <= OTHERWISE
    for key in theirs.metadata.keys() - OTHERWISE:
        assert theirs.metadata[key] == ours.metadata[key], key
    kinds = [{n: (t.kind, t.shape) for n, t in h.tensors.items()} for h in (theirs, ours)]
    assert kinds[0] == kinds[1]


def assert_same_model(ours, theirs):
    scalings = [model.settings.rope.scaling for model in (ours, theirs)]
    if isinstance(scalings[0], LongRopeScaling):  # its attention_factor is float32 in the file
        sizes = [scaling.attention_factor for scaling in scalings]
        assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)
    else:
        assert ours.settings == theirs.settings
    pair = [nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in (ours, theirs)]
    assert tensor_table.paths(pair[0]) == tensor_table.paths(pair[1])
    for path in tensor_table.paths(pair[0]):
        found, wanted = (tensor_table.leaf(params, path) for params in pair)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2**-24, err_msg=str(path))


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3"])
def test_its_vocabularies_give_the_ids_that_it_expects(name, llama_cpp_source, tmp_path):
    """47 hard texts, whose ids llama.cpp has from transformers."""
    from tokenizers import Tokenizer

    vocabulary = llama_cpp_source / "models" / f"ggml-vocab-{name}.gguf"
    gguf_tokenizer.write(gguf_header.read(vocabulary).metadata, tmp_path, str(vocabulary))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = Path(f"{vocabulary}.inp").read_text().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{vocabulary}.out").read_text().split("\n")
    assert len(texts) == len(lines) > 40
    for text, line in zip(texts, lines, strict=True):
        wanted = [int(number) for number in line.split()]
        assert tokenizer.encode(text, add_special_tokens=False).ids == wanted, text
