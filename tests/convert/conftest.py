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
def save_tokenizer() -> Callable[[Path], Any]:
    """Trains a small byte-level BPE with SmolLM2's splits and saves it with a chat template."""

    def save(directory: Path) -> Any:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(TEXTS, trainer)
        tokenizer.add_tokens(["<think>"])
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>"
        )
        fast.chat_template = TEMPLATE
        fast.save_pretrained(directory)
        return fast

    return save
