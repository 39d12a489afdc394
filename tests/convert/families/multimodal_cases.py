"""Tiny random multimodal models of every kind of which the text part is read."""

from pathlib import Path
from typing import Any

import numpy as np

IDS = np.arange(3, 83, dtype=np.int32).reshape(2, 40)
TEXT = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0},
    "max_position_embeddings": 64,
}
GEMMA3 = {
    **{"sliding_window": 8, "sliding_window_pattern": 2, "query_pre_attn_scalar": 20},
    **{"final_logit_softcapping": 1.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
}
# The text family, further fields of it, and of the vision tower.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("gemma3_text", GEMMA3, {"model_type": "siglip_vision_model"}),
    "mistral3": ("mistral", {"sliding_window": None}, {"model_type": "pixtral", "head_dim": 8}),
    "llava": ("llama", {}, {"model_type": "clip_vision_model", "projection_dim": 16}),
    "llava_next": ("mistral", {}, {"model_type": "clip_vision_model", "projection_dim": 16}),
    "llava_next_video": ("llama", {}, {"model_type": "clip_vision_model", "projection_dim": 16}),
    "llava_onevision": ("qwen2", {}, {"model_type": "siglip_vision_model"}),
    "vipllava": ("llama", {}, {"model_type": "clip_vision_model", "projection_dim": 16}),
    "video_llava": ("llama", {}, {"model_type": "clip_vision_model", "projection_dim": 16}),
    "got_ocr2": ("qwen2", {}, {}),
    "deepseek_vl": ("llama", {}, {"model_type": "siglip_vision_model"}),
    "lighton_ocr": ("qwen3", {}, {"model_type": "pixtral", "head_dim": 8}),
    "idefics2": ("mistral", {}, {"model_type": "idefics2_vision"}),
    "internvl": ("qwen2", {}, {"model_type": "internvl_vision"}),
    "idefics3": ("llama", {}, {"model_type": "idefics3_vision"}),
    "smolvlm": ("llama", {}, {"model_type": "smolvlm_vision"}),
}


def save(
    kind: str,
    directory: Path,
    dtype: str = "float32",
    max_shard_size: str = "5GB",
    text: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """Saves a random model; gives it in float32.

    Args:
        text: further fields of its text_config.
        changes: of its config.json.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    family, others, vision = KINDS[kind]
    config = transformers.CONFIG_MAPPING[kind](
        text_config={**TEXT, **others, **(text or {}), "model_type": family},
        vision_config={**VISION, **vision},
        **({"mm_tokens_per_image": 4} if kind == "gemma3" else {}),
        **changes,
    )
    auto = transformers.AutoModelForImageTextToText
    model = auto.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        center = 1.0 if parameter.dim() == 1 and kind != "gemma3" else 0.0
        parameter.data = center + 0.2 * torch.randn_like(parameter)
    model.tie_weights()
    model.to(getattr(torch, dtype))
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return model.float().eval()


def their_logits(model: Any) -> np.ndarray:
    """Torch's, of the two rows of IDS."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS, dtype=torch.long)).logits.numpy()
