"""A model written as GGUF reads back as it was, and what the format can't hold is refused."""

import dataclasses
import json

import gguf as library
import jax
import numpy as np
import pytest
from flax import nnx
from transformers import CONFIG_MAPPING

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.convert.export import gguf_file
from jaxsft.convert.gguf.model_file import File
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.errors import ConversionError
from jaxsft.files import untrusted

VOCAB = 328
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3"]
COMPARED = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "layer_types"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "hidden_act"),
    *("max_position_embeddings", "tie_word_embeddings", "rope_parameters", "attention_bias"),
    *("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
    *("query_pre_attn_scalar", "hidden_activation", "bos_token_id"),
}


def write(directory, path, dtype="f32", ends=(2,), **changes):
    config = untrusted.read_json(directory / "config.json") | changes
    return gguf_file.write(Directory(directory), config, path, directory, dtype, None, ends)


def completed(config):
    return CONFIG_MAPPING[config["model_type"]].from_dict(config).to_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_setting_comes_back(family, save_family, save_tokenizer, tmp_path):
    directory, _ = save_family(family, vocab_size=VOCAB)
    save_tokenizer(directory)
    file = File(write(directory, tmp_path / "m.gguf").path)
    ours = completed(file.hf_config())
    theirs = completed(untrusted.read_json(directory / "config.json"))
    for field in COMPARED & theirs.keys():
        assert ours.get(field) == theirs[field], field
    assert file.generation_config()["eos_token_id"] == [2]


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama", {"rope_type": "linear", "factor": 4.0}),
        ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}),
        (
            "llama",
            {
                **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0},
                **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
            },
        ),
        ("qwen2", {"rope_type": "linear", "type": "linear", "factor": 2.0}),
        ("phi3", {"rope_type": "default", "partial_rotary_factor": 0.5}),
    ],
)
def test_the_rotary_embedding_comes_back(family, rope, save_family, save_tokenizer, tmp_path):
    rope = {"rope_theta": 5e5, **rope}
    old = rope.pop("type", None)  # an old spelling of rope_type beside it
    changes = {"attention_bias": True} if family == "llama" else {}
    sizes = {"vocab_size": VOCAB, "hidden_size": 128}
    directory, _ = save_family(family, rope_parameters=rope, **sizes, **changes)
    save_tokenizer(directory)
    spelt = rope if old is None else {**rope, "type": old}
    file = File(write(directory, tmp_path / "m.gguf", rope_parameters=spelt).path)
    config = completed(file.hf_config())
    assert {k: config["rope_parameters"][k] for k in rope} == rope
    if family == "llama":
        assert config["attention_bias"] is True
        bias = "model.layers.1.self_attn.q_proj.bias"
        np.testing.assert_array_equal(file.read(bias), Directory(directory).read(bias))


LONGROPE = {
    **{"rope_type": "longrope", "rope_theta": 1e4},
    **{"short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [3.0, 4.1, 5.0, 6.0]},
}


YARN = {"rope_theta": 1e4, "original_max_position_embeddings": 128}


@pytest.mark.parametrize("size", [{}, {"attention_factor": 1.5}])
def test_longrope_comes_back_with_what_it_multiplies_by(
    size, save_family, save_tokenizer, tmp_path
):
    rope, lengths = LONGROPE | size, {"original_max_position_embeddings": 128}
    directory, _ = save_family("phi3", vocab_size=VOCAB, rope_parameters=rope, **lengths)
    save_tokenizer(directory)
    (note,) = (written := write(directory, tmp_path / "m.gguf")).notes
    assert "takes long_factor where its context is longer than 128 tokens" in note
    metadata = File(written.path).metadata
    usual = (1 + np.log(512 / 128) / np.log(128)) ** 0.5
    expected = pytest.approx(size.get("attention_factor", usual), abs=1e-6)
    assert metadata["phi3.rope.scaling.attn_factor"] == expected
    ours, theirs = (
        pretrained.open_pretrained(path).settings.rope for path in (written.path, directory)
    )
    assert ours.scaling.attention_factor == expected == theirs.scaling.attention_factor
    usual = dataclasses.replace(ours.scaling, attention_factor=theirs.scaling.attention_factor)
    assert dataclasses.replace(ours, scaling=usual) == theirs


def test_bfloat16_is_exact_and_q8_0_within_its_bound(save_llama, save_tokenizer, tmp_path):
    directory, _ = save_llama(
        dtype="bfloat16", vocab_size=VOCAB, hidden_size=64, intermediate_size=80
    )
    save_tokenizer(directory)
    original = Directory(directory)
    file = File(write(directory, tmp_path / "half.gguf", "bf16").path)
    for name in original.names():
        np.testing.assert_array_equal(
            file.read(name).astype(np.float32), original.read(name).astype(np.float32)
        )
    assert str(file.dtype("lm_head.weight")) == "bfloat16"
    assert file.metadata["general.file_type"] == library.LlamaFileType.MOSTLY_BF16
    written = write(directory, tmp_path / "eight.gguf", "q8_0")
    (note,) = written.notes
    assert "2 tensors are f16, as their rows are no multiple of 32 (blk.0.ffn_down" in note
    file = File(written.path)
    for name in original.names():
        wanted, found = (t.read(name).astype(np.float32) for t in (original, file))
        if wanted.ndim == 1:
            np.testing.assert_array_equal(found, wanted)
            continue
        if wanted.shape[-1] % 32:
            np.testing.assert_array_equal(found, wanted.astype(np.float16).astype(np.float32))
            continue
        largest = np.abs(wanted.reshape(-1, 32)).max(1, keepdims=True)
        # Half a step, and the float16 rounding of the step times 127 steps.
        bound = largest / 127 * (0.5 + 127 * 2**-11) * 1.001
        error = np.abs(found - wanted).reshape(-1, 32)
        assert (error <= bound).all() and error.max() > 0, name


def test_an_export_says_everything_that_llama_cpp_asks_for(save_llama, save_tokenizer, tmp_path):
    directory, _ = save_llama(vocab_size=VOCAB)
    tokenizer = save_tokenizer(directory)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")
    model = jaxsft.load_model(directory)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    base = pretrained.open_pretrained(directory)
    path = tmp_path / "out" / "m.gguf"
    written = gguf_file.export_gguf(
        params, base, path, dtype="f32", template="{{ 1 }}", end_of_turn_ids=[7, 9]
    )
    assert written == gguf_file.GgufFile(path, ())
    assert [p.name for p in path.parent.iterdir()] == ["m.gguf"]
    metadata = File(path).metadata
    expected = {
        "general.architecture": "llama",
        "general.name": "model",
        "general.license": "mit",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,  # the tokenizer's own, then the trained ones
        "tokenizer.ggml.eot_token_id": 7,
        "tokenizer.ggml.eom_token_id": 9,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ 1 }}",
        "llama.vocab_size": VOCAB,
        "llama.rope.dimension_count": 8,
    }
    assert {key: metadata[key] for key in expected} == expected
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == VOCAB
    assert tokens[len(tokenizer)] == f"[PAD{len(tokenizer)}]" and types[len(tokenizer)] == 5
    assert types[tokens.index("<think>")] == 4 and types[2] == 3
    again = jaxsft.load_model(path)
    assert again.settings == model.settings
    jax.tree.map(
        np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(again, nnx.Param)), params
    )


def test_more_end_tokens_than_there_are_keys_are_told(save_llama, save_tokenizer, tmp_path):
    directory, _ = save_llama(vocab_size=VOCAB)
    save_tokenizer(directory)
    (note,) = write(directory, tmp_path / "m.gguf", ends=[2, 7, 8, 9]).notes
    assert "3 end tokens only; [9] are left out" in note


@pytest.mark.parametrize(("family", "name"), [("mistral", "llama"), ("phi3", "phi3")])
def test_a_window_that_llama_cpp_ignores_limits_the_context(
    family, name, save_family, save_tokenizer, tmp_path
):
    directory, _ = save_family(family, vocab_size=VOCAB, sliding_window=64)
    save_tokenizer(directory)
    (note,) = (written := write(directory, tmp_path / "m.gguf")).notes
    assert "sliding_window=64 can't be told to llama.cpp; the file's context is 64" in note
    assert File(written.path).metadata[f"{name}.context_length"] == 64
    written = write(directory, tmp_path / "wide.gguf", sliding_window=512)  # of the context's size
    assert not written.notes and File(written.path).metadata[f"{name}.context_length"] == 512


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"model_type": "mamba"}, "model_type='mamba' can't be written as GGUF"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu' can't be written .*'silu'"),
        ("llama", {"vocab_size": "x"}, "m.gguf: .*vocab_size"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping=None .* has 50.0"),
        ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping=None .* has 30.0"),
        ("gemma3_text", {"final_logit_softcapping": 2.0}, "final_logit_softcapping=2.0 can't"),
        ("gemma", {"attention_bias": True}, "attention_bias=True can't"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True can't"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True can't"),
        ("qwen2", {"head_dim": 16}, "head_dim=16 can't .*qwen2 has .* = 8"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0},
            "use_sliding_window=True can't",
        ),
        ("gemma2", {"query_pre_attn_scalar": 8}, "query_pre_attn_scalar=8 .* has 16"),
        ("gemma2", {"layer_types": ["full_attention"] * 7}, r"layer_types=\['full_attention'"),
        (
            "gemma3_text",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 3.0},
                }
            },
            "sliding_attention=.*3.0.* can't be written as GGUF: .* rope_theta=10000",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type='dynamic' with .*2.0",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 4.0, **YARN}},
            "rope_type='yarn' with .*'beta_fast': 4.0",
        ),
        ("qwen3", {"rope_parameters": {**LONGROPE, **YARN}}, "rope_type='longrope' with"),
        (
            "llama",
            {
                "rope_parameters": {
                    **{"rope_type": "default", "rope_theta": 1e4},
                    "partial_rotary_factor": 0.5,
                }
            },
            "partial_rotary_factor=0.5 can't",
        ),
        ("llama", {"vocab_size": 96}, "has 3[0-9]{2} tokens, the model vocab_size=96 rows"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family, changes, message, save_family, save_tokenizer, tmp_path
):
    directory, _ = save_family(family, vocab_size=VOCAB)
    save_tokenizer(directory)
    with pytest.raises(ConversionError, match=message):
        write(directory, tmp_path / "m.gguf", **changes)
    assert not (tmp_path / "m.gguf").exists()


def test_values_that_do_not_fit_are_refused(save_family, save_tokenizer, tmp_path):
    import torch

    directory, model = save_family("llama", vocab_size=VOCAB)
    save_tokenizer(directory)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    model.save_pretrained(directory)
    write(directory, tmp_path / "wide.gguf", "bf16")
    with pytest.raises(ConversionError, match="layers.1.mlp.up_proj.weight: 100000 does not fit"):
        write(directory, tmp_path / "m.gguf", "f16")
    with torch.no_grad():
        model.model.norm.weight[0] = torch.inf
    model.save_pretrained(directory)
    with pytest.raises(ConversionError, match="output_norm.weight: holds NaN or inf"):
        write(directory, tmp_path / "m.gguf", "f32")
    with pytest.raises(ConversionError, match="m.bin: name a file that ends in .gguf"):
        write(directory, tmp_path / "m.bin")


def test_a_tensor_without_a_place_is_named(save_family, save_tokenizer, tmp_path):
    directory, _ = save_family("qwen3", vocab_size=VOCAB)
    save_tokenizer(directory)
    with pytest.raises(ConversionError, match=r"self_attn.[qk]_norm.weight has no place"):
        write(directory, tmp_path / "m.gguf", model_type="llama", architectures=None)


def test_a_file_that_reads_back_differently_is_refused(
    save_family, save_tokenizer, tmp_path, monkeypatch
):
    directory, _ = save_family("llama", vocab_size=VOCAB)
    save_tokenizer(directory)
    real = gguf_file._write_file

    def flip(library, path, *rest):
        digests = real(library, path, *rest)
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
        return digests

    monkeypatch.setattr(gguf_file, "_write_file", flip)
    with pytest.raises(ConversionError, match="reads back differently; is the disk sound"):
        write(directory, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


# Cuts at each space, so that no token has two.
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"].update(type="Unigram"), "model.type='Unigram'"),
        (
            lambda t: t["pre_tokenizer"].update(pretokenizers=[{"type": "Whitespace"}]),
            "pre_tokenizer are none of those .*'Whitespace'",
        ),
        (
            lambda t: t["model"].update(byte_fallback=True) or t.update(normalizer=None),
            "normalizer=None with pre_tokenizer=.*can't be written",
        ),
        (
            lambda t: (
                t["model"].update(byte_fallback=True)
                or t.update(normalizer=None, pre_tokenizer=METASPACE)
            ),
            "pre_tokenizer=.*'split': True} can't be written",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(
    change, message, save_family, save_tokenizer, tmp_path
):
    directory, _ = save_family("llama", vocab_size=VOCAB)
    save_tokenizer(directory)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    change(tokenizer)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConversionError, match=message):
        write(directory, tmp_path / "m.gguf")
