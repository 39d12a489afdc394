"""An adapter on a tied base leaves two matrices where PEFT has two, and one where it has one.

The expected ones are written down by hand. Each row was compared once with what PeftModel of peft
0.21.2 computes (transformers 5.24, a tied Llama), as were 350 random configurations of
target_modules, modules_to_save and the patterns, saved by PEFT itself: no other logits.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.convert.gguf.model_file import File
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.errors import ConversionError

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
E, H, BASE = f"{EMBEDDING}.weight", f"{HEAD}.weight", "base"
WRAPPED_E, WRAPPED_H = f"{EMBEDDING}.base_layer.weight", f"{HEAD}.base_layer.weight"
ORIGINAL_E = f"{EMBEDDING}.original_module.weight"
EA, EB = (f"{EMBEDDING}.lora_embedding_{x}" for x in "AB")
HA, HB = (f"{HEAD}.lora_{x}.weight" for x in "AB")
DE, DH = (EA, EB), (HA, HB)  # the products of the factors
VOCAB, DIM, RANK = 96, 32, 2
SHAPES = {E: (VOCAB, DIM), H: (VOCAB, DIM), WRAPPED_E: (VOCAB, DIM), WRAPPED_H: (VOCAB, DIM)}
SHAPES |= {EA: (RANK, VOCAB), EB: (DIM, RANK), HA: (RANK, DIM), HB: (VOCAB, RANK)}
SHAPES |= {ORIGINAL_E: (VOCAB, DIM)}


def row(tensors, embedding, head, *, target=(), save=None, ensure=False, **changes):
    names = ["q_proj", *target]
    config = {"target_modules": names, "modules_to_save": save, "ensure_weight_tying": ensure}
    return tensors, embedding, head, config | changes


ROWS = [
    row([E], [E], [BASE], save=["embed_tokens"]),
    row([H], [BASE], [H], save=["lm_head"]),
    row([E, H], [E], [H], save=["embed_tokens", "lm_head"]),
    row([E, H], [H], [H], save=["embed_tokens"], ensure=True),  # a copy each; head's loaded last
    row([E], [E], [E], save=["embed_tokens"], ensure=True),
    row([H], [H], [H], save=["lm_head"], ensure=True),
    row(DE, [BASE, DE], [BASE], target=["embed_tokens"]),
    row(DH, [BASE], [BASE, DH], target=["lm_head"]),
    row([*DE, *DH], [BASE, DE], [BASE, DH], target=["embed_tokens", "lm_head"]),
    row(DE, [BASE, DE], [BASE, DE], target=["embed_tokens"], ensure=True),
    row(DH, [BASE, DH], [BASE, DH], target=["lm_head"], ensure=True),
    row([*DE, *DH], [BASE, DH], [BASE, DH], target=["embed_tokens"], ensure=True),
    row([E], [E], [E]),  # save_embedding_layers: into what both share
    row([H], [H], [H]),
    row([E, H], [H], [H]),
    row([WRAPPED_E, *DE], [WRAPPED_E, DE], [WRAPPED_E], target=["embed_tokens"]),
    row([WRAPPED_E, *DE, H], [WRAPPED_E, DE], [H], target=["embed_tokens"], save=["lm_head"]),
    row([WRAPPED_H, *DH], [WRAPPED_H], [WRAPPED_H, DH], target=["lm_head"]),
    row([E, ORIGINAL_E], [E], [ORIGINAL_E], save=["embed_tokens"]),
    row([E, *DE], [BASE, DE], [BASE], target=["embed_tokens"]),  # a name that PEFT doesn't load
    row(DE, [BASE], [BASE]),  # factors of a module that nothing targets
    row(DE, [BASE], [BASE], target=["embed_tokens"], exclude_modules=["embed_tokens"]),
]


@pytest.fixture
def save(save_llama, tmp_path):
    """Saves a tied base, and an adapter of it with q_proj's factors and these tensors."""

    def saved(tensors, config, **changes):
        base, _ = save_llama(tie_word_embeddings=True, **changes)
        random, file = np.random.default_rng(0), {}
        shapes = {name: SHAPES[name] for name in tensors}
        for layer in range(2):
            module = f"model.layers.{layer}.self_attn.q_proj"
            shapes |= {
                f"{module}.lora_A.weight": (RANK, DIM),
                f"{module}.lora_B.weight": (32, RANK),
            }
        for name, shape in shapes.items():
            rows = [changes.get("vocab_size", VOCAB) if n == VOCAB else n for n in shape]
            file[f"base_model.model.{name}"] = random.normal(size=rows).astype(np.float32)
        directory = tmp_path / "adapter"
        directory.mkdir()
        save_file(file, directory / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, **config}
        config["base_model_name_or_path"] = "../model"
        (directory / "adapter_config.json").write_text(json.dumps(config))
        file = {name.removeprefix("base_model.model."): array for name, array in file.items()}
        return directory, file | {BASE: load_file(base / "model.safetensors")[E]}

    return saved


def made(parts, arrays, scale=3.0):
    """The sum of a weight and products of factors, [V, D]."""
    total = 0
    for part in parts:
        if isinstance(part, str):
            total = total + arrays[part]
        else:
            product = arrays[part[1]] @ arrays[part[0]]
            total = total + scale * (product.T if part == DE else product)
    return total


@pytest.mark.filterwarnings("ignore:.*/adapter")
@pytest.mark.parametrize(("tensors", "embedding", "head", "config"), ROWS)
def test_embedding_and_head_are_those_of_peft(tensors, embedding, head, config, save, tmp_path):
    directory, arrays = save(tensors, config)
    opened = pretrained.open_pretrained(directory)
    tied = embedding == head
    assert opened.settings.tied_embeddings is opened.config["tie_word_embeddings"] is tied
    assert any("the model is untied" in note for note in opened.notes) is not tied
    assert opened.tensors is not None and (H in opened.tensors.names()) is not tied
    for name, parts in {E: embedding, **({} if tied else {H: head})}.items():
        expected = made(parts, arrays)
        np.testing.assert_allclose(opened.tensors.read(name), expected, rtol=1e-5, atol=1e-5)


def test_another_scale_of_the_head_unties_too(save):
    config = {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    directory, arrays = save(DE, config | {"alpha_pattern": {"lm_head": 2}})
    tensors = pretrained.open_pretrained(directory).tensors
    assert tensors is not None
    for name, scale in ((E, 3), (H, 1)):
        expected = made([BASE, DE], arrays, scale)
        np.testing.assert_allclose(tensors.read(name), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*/adapter")
def test_an_untied_model_is_exported_as_such(save, save_tokenizer, tmp_path):
    """With both matrices, in either format, and with the tokenizer of the adapter."""
    config = {"target_modules": ["embed_tokens"]}
    directory, arrays = save(DE, config, vocab_size=328)
    save_tokenizer(directory)
    model = jaxsft.load_model(directory)
    out = jaxsft.save_model(model, tmp_path / "out").directory
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert (out / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()
    file = File(jaxsft.save_model(model, tmp_path / "out.gguf", format="gguf").path)
    assert file.hf_config()["tie_word_embeddings"] is False
    assert "<think>" in file.metadata["tokenizer.ggml.tokens"]
    for written in (Directory(out), file):
        assert written.dtype(E) == np.float32
        for name, parts in ((E, [BASE, DE]), (H, [BASE])):
            expected = made(parts, arrays)
            np.testing.assert_allclose(written.read(name), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("same", "message"), [(True, None), (False, "lm_head.weight differs")])
def test_a_copy_of_the_head_in_a_tied_base_is_checked(same, message, save, tmp_path):
    directory, arrays = save(
        [E], {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    )
    file = tmp_path / "model" / "model.safetensors"
    save_file(load_file(file) | {H: arrays[BASE] + (not same)}, file)
    if message:
        with pytest.raises(ConversionError, match=message):
            pretrained.open_pretrained(directory)
        return
    opened = pretrained.open_pretrained(directory)
    assert opened.tensors is not None
    assert opened.tensors.names().count(H) == 1
    np.testing.assert_array_equal(opened.tensors.read(H), arrays[BASE])
