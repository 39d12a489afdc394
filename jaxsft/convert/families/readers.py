"""How each family's config.json is read: the settings that are not common to all families."""

from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope, read_ropes
from jaxsft.convert.families.shared_fields import (
    ACTIVATIONS,
    FULL,
    SLIDING,
    Settings,
    attention_bias,
    head_dim,
    kinds,
    layer_types,
    plain_parts,
    same_window,
    window_types,
    windows,
)
from jaxsft.model.settings import Activation, Block, LongRopeScaling, NormSettings, QkNorm, Rope

# Gemma's first checkpoints say gelu and mean the approximation.
GEMMA_ACTIVATIONS = {name: Activation.GELU_TANH for name in ("gelu_pytorch_tanh", "gelu")}
LAYER_NORM = NormSettings(centered=True, bias=True, scale_in_float32=True)
COHERE_NORM = NormSettings(centered=True, scale_in_float32=True)
GEMMA_NORM = NormSettings(scale_plus_one=True, scale_in_float32=True)


def llama(fields: Fields) -> Settings:
    return {**plain_parts(fields), **attention_bias(fields), "mlp_bias": fields.flag("mlp_bias")}


def mistral(fields: Fields) -> Settings:
    plain = plain_parts(fields)
    return {**plain, **same_window(fields, plain["rope"])}


def ministral(fields: Fields) -> Settings:
    plain = plain_parts(fields)
    has_window = fields.raw("sliding_window") is not None
    types = layer_types(fields, lambda layer: has_window)
    return {**plain, **kinds(fields, windows(fields, types), [plain["rope"]] * len(types))}


def _qwen_windows(fields: Fields, rope: Rope) -> Settings:
    """From max_window_layers on, and only where use_sliding_window says so."""
    first = fields.natural("max_window_layers")
    types = window_types(fields, lambda layer: layer >= first)
    return kinds(fields, windows(fields, types), [rope] * len(types))


def qwen2(fields: Fields) -> Settings:
    plain = plain_parts(fields)
    return {**plain, **_qwen_windows(fields, plain["rope"]), "qkv_bias": True}


def qwen3(fields: Fields) -> Settings:
    plain = plain_parts(fields)
    windows = _qwen_windows(fields, plain["rope"])
    return {**plain, **windows, **attention_bias(fields), "qk_norm": QkNorm.HEAD}


def gemma(fields: Fields) -> Settings:
    fields.only("use_bidirectional_attention", False)
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    return {
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_act", GEMMA_ACTIVATIONS),
        "rope": read_rope(fields, head_dim(fields), theta=1e4),
        "norm": GEMMA_NORM,
        "embedding_scale": fields.count("hidden_size") ** 0.5,
        **attention_bias(fields),
    }


def gemma2(fields: Fields) -> Settings:
    rope = read_rope(fields, head_dim(fields), theta=1e4)
    types = layer_types(fields, lambda layer: layer % 2 == 0)
    return {
        **_gemma_later(fields),
        "rope": rope,
        "attention_soft_cap": fields.maybe_positive("attn_logit_softcapping"),
        **kinds(fields, windows(fields, types), [rope] * len(types)),
    }


def _gemma_later(fields: Fields) -> Settings:
    """What Gemma 2 and 3 have in common."""
    fields.only("use_bidirectional_attention", False)
    return {
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_activation", ACTIVATIONS),
        "norm": GEMMA_NORM,
        "norms_after": True,
        "embedding_scale": fields.count("hidden_size") ** 0.5,
        "attention_scale": fields.positive("query_pre_attn_scalar") ** -0.5,
        "logit_soft_cap": fields.maybe_positive("final_logit_softcapping"),
        **attention_bias(fields),
    }


def gemma3(fields: Fields) -> Settings:
    size = head_dim(fields)
    if fields.raw("attn_logit_softcapping") is not None:  # transformers has and does not use it
        fields.tell("attn_logit_softcapping has no effect in this family, as in transformers")
    local_theta = fields.maybe_positive("rope_local_base_freq") or 1e4
    ropes = read_ropes(fields, size, full_theta=1e6, sliding_theta=local_theta)
    every = fields.maybe_count("sliding_window_pattern") or 6
    types = layer_types(fields, lambda layer: (layer + 1) % every != 0)
    return {
        **_gemma_later(fields),
        "qk_norm": QkNorm.HEAD,
        "rope": ropes[FULL],
        **kinds(fields, windows(fields, types), [ropes[kind] for kind in types]),
    }


def phi3(fields: Fields) -> Settings:
    names = {"su": "longrope", "yarn": "longrope"}  # as transformers reads them here
    rope = read_rope(fields, head_dim(fields), theta=1e4, share=1.0, spellings=names)
    if rope.scaling is not None and not isinstance(rope.scaling, LongRopeScaling):
        raise fields.refuse("rope_scaling", "is not supported; longrope is")
    plain = {
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "rope": rope,
    }
    return {**plain, **same_window(fields, rope)}


def olmo2(fields: Fields) -> Settings:
    return {**plain_parts(fields), **_olmo(fields)}


def _olmo(fields: Fields) -> Settings:
    return {
        "norm": NormSettings(scale_in_float32=True),
        "norms_before": False,
        "norms_after": True,
        "qk_norm": QkNorm.WIDTH,
        **attention_bias(fields),
    }


def olmo3(fields: Fields) -> Settings:
    size = head_dim(fields)
    fields.only("rope_theta", 5e5)  # versions of transformers disagree on which layers it is for
    ropes = read_ropes(fields, size, full_theta=5e5, sliding_theta=5e5)
    types = layer_types(fields, lambda layer: (layer + 1) % 4 != 0)
    return {
        **_olmo(fields),
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "rope": ropes[FULL],
        **kinds(fields, windows(fields, types), [ropes[kind] for kind in types]),
    }


def smollm3(fields: Fields) -> Settings:
    plain = plain_parts(fields, theta=2e6)
    num_layers = fields.count("num_hidden_layers")
    every = fields.count("no_rope_layer_interval")
    turned = fields.raw("no_rope_layers")  # 1: has a rope, in spite of the name
    if turned is None:
        turned = [int((layer + 1) % every != 0) for layer in range(num_layers)]
    if not isinstance(turned, list) or len(turned) != num_layers or set(turned) - {0, 1}:
        raise fields.refuse("no_rope_layers", f"is not supported; {num_layers} of 0 and 1 are")
    types = window_types(fields, lambda layer: not turned[layer])
    ropes = [plain["rope"] if has_rope else None for has_rope in turned]
    return {
        **plain,
        **attention_bias(fields),
        "mlp_bias": fields.flag("mlp_bias"),
        **kinds(fields, windows(fields, types), ropes),
    }


def granite(fields: Fields) -> Settings:
    return {
        **llama(fields),
        "embedding_scale": fields.positive("embedding_multiplier"),
        "residual_scale": fields.positive("residual_multiplier"),
        "attention_scale": fields.positive("attention_multiplier"),
        "logit_scale": 1 / fields.positive("logits_scaling"),
    }


def _cohere_common(fields: Fields) -> Settings:
    return {
        "norm_eps": fields.positive("layer_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "norm": COHERE_NORM,
        "block": Block.PARALLEL_ONE_NORM,
        "logit_scale": fields.positive("logit_scale"),
        **attention_bias(fields),
    }


def cohere(fields: Fields) -> Settings:
    return {
        **_cohere_common(fields),
        "rope": read_rope(fields, head_dim(fields), theta=5e5, interleaved=True),
        "qk_norm": QkNorm.EACH_HEAD if fields.truth("use_qk_norm") else None,
    }


def cohere2(fields: Fields) -> Settings:
    """Layers without a window have no rope."""
    fields.only("head_dim", fields.count("hidden_size") // fields.count("num_attention_heads"))
    rope = read_rope(fields, head_dim(fields), theta=1e4, interleaved=True)
    every = fields.maybe_count("sliding_window_pattern") or 4
    types = layer_types(fields, lambda layer: (layer + 1) % every != 0)
    fields.only("use_parallel_block", True)
    fields.only("use_gated_activation", True)
    fields.only("position_embedding_type", "rope_gptj")
    fields.only("order_of_interleaved_layers", "local_attn_first")
    ropes = [rope if kind == SLIDING else None for kind in types]
    return {
        **_cohere_common(fields),
        "rope": rope,
        **kinds(fields, windows(fields, types), ropes),
    }


def glm4(fields: Fields) -> Settings:
    return {
        **plain_parts(fields, interleaved=True, share=0.5),
        "norms_after": True,
        "qkv_bias": fields.flag("attention_bias"),
    }


def starcoder2(fields: Fields) -> Settings:
    rope = read_rope(fields, head_dim(fields), theta=1e4)
    bias = fields.truth("use_bias")
    fields.only("norm_type", "layer_norm")
    fields.only("mlp_type", "default")
    return {
        "norm_eps": fields.positive("norm_epsilon"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "norm": LAYER_NORM,
        **dict.fromkeys(("qkv_bias", "attention_out_bias", "mlp_bias"), bias),
        "mlp_gated": False,
        "rope": rope,
        **same_window(fields, rope),
    }


def gpt_neox(fields: Fields) -> Settings:
    heads = fields.count("num_attention_heads")
    fields.only("num_key_value_heads", heads)
    fields.only("head_dim", fields.count("hidden_size") // heads)
    theta = fields.maybe_positive("rotary_emb_base") or 1e4
    share = fields.maybe_positive("rotary_pct") or 0.25
    fields.only("rope_theta", theta)  # transformers reads neither of these names here
    fields.only("partial_rotary_factor", share)
    parallel = fields.truth("use_parallel_residual")
    return {
        "norm_eps": fields.positive("layer_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "norm": LAYER_NORM,
        "block": Block.PARALLEL if parallel else Block.SEQUENTIAL,
        "mlp_bias": True,
        "mlp_gated": False,
        **attention_bias(fields),
        "rope": read_rope(fields, head_dim(fields), theta=theta, share=share),
    }
