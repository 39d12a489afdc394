"""Random tiny Llama models saved by transformers, and the same models written as GGUF files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

VOCAB = 96
CONFIG = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
TEXTS = ["What is 2+2? 2+2 is 4.", "Once upon a time, it's 1999\n\n\tnaïve café 你好", " a  b "] * 3
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture
def save_llama(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Saves a random LlamaForCausalLM; gives its directory and the torch model, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def save(
        name: str = "model", dtype: str = "float32", max_shard_size: str = "5GB", **changes: Any
    ) -> tuple[Path, Any]:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**{**CONFIG, **changes}))
        for parameter in model.parameters():  # norms too: ones would hide that they are swapped
            center = 1.0 if parameter.dim() == 1 else 0.0
            parameter.data = center + 0.2 * torch.randn_like(parameter)
        model.to(getattr(torch, dtype))
        model.save_pretrained(tmp_path / name, max_shard_size=max_shard_size)
        return tmp_path / name, model.float().eval()

    return save


@pytest.fixture
def save_family(tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Saves the random model that a family is written as GGUF with.

    Gives its directory and the torch model, in float32.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from tests.convert.families import family_cases

    def save(family: str, name: str = "", **changes: Any) -> tuple[Path, Any]:
        torch.manual_seed(0)
        config = CONFIG_MAPPING[family](
            **{**CONFIG, **family_cases.of_family(family).gguf, **changes}
        )
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            center = 1.0 if parameter.dim() == 1 and not family.startswith("gemma") else 0.0
            parameter.data = center + 0.2 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / (name or family))
        return tmp_path / (name or family), model.eval()

    return save


@pytest.fixture
def torch_logits() -> Callable[..., np.ndarray]:
    import torch

    def logits(model: Any, ids: Any) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor(np.asarray(ids, np.int64))).logits.float().numpy()

    return logits


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """Changes fields of a config.json; a value of ... removes the field."""

    def edit(directory: Path, **changes: Any) -> None:
        path = directory / "config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))

    return edit


@pytest.fixture
def edit_json() -> Callable[..., None]:
    """Changes fields of a JSON file."""

    def edit(path: Path, **changes: Any) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.fixture
def save_tokenizer() -> Callable[[Path], Any]:
    """Trains a small byte-level BPE with SmolLM2's splits and saves it with a chat template."""

    def save(directory: Path) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        # Trained without the digit split: merges of digits exist, and only the split prevents them.
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(TEXTS, trainer)
        tokenizer.add_tokens(["<think>"])
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, tokenizer.pre_tokenizer])
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>"
        )
        fast.chat_template = TEMPLATE
        fast.save_pretrained(directory)
        return fast

    return save


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}


def gguf_arrays(model: Any) -> dict[str, np.ndarray]:
    """The torch model's weights with GGUF names, query and key rows in GGUF's order.

    Source: convert_hf_to_gguf.py of llama.cpp, LlamaModel.permute.
    """
    config, arrays = model.config, {}
    for name, tensor in model.state_dict().items():
        parts = name.removesuffix(".weight").split(".")
        layer = next((part for part in parts if part.isdigit()), "")
        template = ".".join("{}" if part.isdigit() else part for part in parts)
        array = tensor.float().numpy()
        if parts[-1] in ("q_proj", "k_proj"):
            query = parts[-1] == "q_proj"
            heads = config.num_attention_heads if query else config.num_key_value_heads
            halves = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        arrays[GGUF_NAMES[template].format(layer) + ".weight"] = array
    if config.tie_word_embeddings:
        arrays.pop("output.weight", None)
    return arrays


@pytest.fixture
def save_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes the torch model as GGUF, matrices in the type named.

    Args of the result:
        metadata: changes to the keys; ... removes one.
        arrays: further tensors, or ... to leave one out.
    """
    import gguf

    def save(
        model: Any,
        kind: str = "F32",
        metadata: dict[str, Any] | None = None,
        arrays: dict[str, Any] | None = None,
    ) -> Path:
        config, path = model.config, tmp_path / f"model-{kind}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        keys = {
            "llama.vocab_size": config.vocab_size,
            "llama.block_count": config.num_hidden_layers,
            "llama.context_length": config.max_position_embeddings,
            "llama.embedding_length": config.hidden_size,
            "llama.feed_forward_length": config.intermediate_size,
            "llama.attention.head_count": config.num_attention_heads,
            "llama.attention.head_count_kv": config.num_key_value_heads,
            "llama.attention.key_length": config.head_dim,
            "llama.attention.value_length": config.head_dim,
            "llama.rope.dimension_count": config.head_dim,
            "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
            "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
        for key, value in (keys | (metadata or {})).items():
            if value is not ...:
                _add(writer, key, value)
        for name, array in (gguf_arrays(model) | (arrays or {})).items():
            if array is not ...:
                plain = array.ndim == 1 or kind == "F32"
                ggml = gguf.GGMLQuantizationType[kind]
                data = array if plain else gguf.quants.quantize(array, ggml)
                writer.add_tensor(
                    name, np.ascontiguousarray(data), raw_dtype=None if plain else ggml
                )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return save


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)
