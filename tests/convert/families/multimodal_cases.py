"""Tiny random multimodal models of every kind of which the text part is read."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.families.features import sizes

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
_GEMMA3_LINEAR = {"factor": 8.0, "rope_type": "linear"}
_MISTRAL_SMALL = {
    **{"attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "model_type": "mistral"},
    **{**sizes(131072, 5120, 32768, 40, 32, 8, 131072), "rms_norm_eps": 1e-5},
    **{"rope_theta": 1000000000.0, "sliding_window": None, "use_cache": True},
}
# Fields of config.json as models were published with them.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Gemma 3 4B": {
        **{"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        **{"boi_token_index": 255999, "eos_token_id": [1, 106], "image_token_index": 262144},
        "text_config": {
            **{"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text"},
            **{"num_hidden_layers": 34, "rope_scaling": _GEMMA3_LINEAR, "sliding_window": 1024},
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    },
    "Gemma 3 27B": {
        **{"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        "text_config": {
            **{"head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504},
            **{"model_type": "gemma3_text", "num_attention_heads": 32, "num_hidden_layers": 62},
            **{"num_key_value_heads": 16, "query_pre_attn_scalar": 168, "sliding_window": 1024},
            "rope_scaling": _GEMMA3_LINEAR,
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    },
    "Mistral Small 3.1": {
        **{"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"]},
        **{"image_token_index": 10, "vision_feature_layer": -1, "spatial_merge_size": 2},
        **{"text_config": _MISTRAL_SMALL, "vision_config": {"model_type": "pixtral"}},
    },
    "LLaVA 1.5": {
        **{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]},
        **{"image_token_index": 32000, "vision_feature_layer": -2},
        "text_config": {
            **{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096},
            **{"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 32064},
        },
        "vision_config": {"model_type": "clip_vision_model"},
    },
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
