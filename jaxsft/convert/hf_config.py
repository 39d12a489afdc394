"""A Hugging Face config.json of the llama family <-> the decoder's settings."""

from typing import Any

from jaxsft.errors import ConversionError
from jaxsft.model import settings

# What transformers' LlamaConfig takes for a field that is not there.
DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "initializer_range": 0.02,
}
READ = {
    *DEFAULTS,
    *("model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("rope_scaling", "rope_parameters"),
}
# Fields that would change the arithmetic, with the values that don't.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", "swish"),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
    "attention_dropout": (0, None),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "sliding_window": (None,),
    "auto_map": (None,),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "tie_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
}
HARMLESS = {
    *("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype"),
    *("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "is_decoder"),
    *(
        "unk_token_id",
        "decoder_start_token_id",
        "tokenizer_class",
        "prefix",
        "task_specific_params",
    ),
    *("output_attentions", "output_hidden_states", "return_dict", "return_dict_in_generate"),
    *("id2label", "label2id", "problem_type", "finetuning_task", "torchscript", "use_bfloat16"),
    *("chunk_size_feed_forward", "cross_attention_hidden_size", "_attn_implementation"),
    *("_attn_implementation_autoset", "max_length", "min_length", "do_sample", "temperature"),
    *("top_k", "top_p", "typical_p", "num_beams", "num_beam_groups", "num_return_sequences"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "diversity_penalty"),
    *("encoder_no_repeat_ngram_size", "early_stopping", "output_scores", "bad_words_ids"),
    *("forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens", "suppress_tokens"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "tf_legacy_loss"),
    *("max_sequence_length", "transformers.js_config", "unsloth_version", "unsloth_fixed"),
}


def settings_from_config(config: dict[str, Any], where: str) -> tuple[settings.Decoder, list[str]]:
    """The decoder that a config.json describes, and a line for each field that was not understood.

    Raises:
        ConversionError: a field that is missing, ill-typed, or asks for what isn't supported.
    """
    _refuse_unsupported(config, where)
    heads = _count(config, "num_attention_heads", where)
    embed_dim = _count(config, "hidden_size", where)
    head_dim = _head_dim(config, embed_dim, heads, where)
    kv_heads = heads
    if config.get("num_key_value_heads") is not None:
        kv_heads = _count(config, "num_key_value_heads", where)
    if heads % kv_heads:
        raise ConversionError(
            f"{where}: num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}"
        )
    filled = {**DEFAULTS, **config}
    decoder = settings.Decoder(
        vocab_size=_count(config, "vocab_size", where),
        num_layers=_count(config, "num_hidden_layers", where),
        embed_dim=embed_dim,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_dim=_count(config, "intermediate_size", where),
        norm_eps=_positive(filled, "rms_norm_eps", where),
        rope=rope_from_config(config, where),
        tied_embeddings=_truth(filled, "tie_word_embeddings", where),
        max_positions=_count(filled, "max_position_embeddings", where),
        init_stddev=_positive(filled, "initializer_range", where),
    )
    unknown = sorted(set(config) - READ - set(NEUTRAL) - HARMLESS)
    return decoder, [f"{where}: unknown field {f}={config[f]!r} has no effect" for f in unknown]


def rope_from_config(config: dict[str, Any], where: str) -> settings.Rope:
    """From `rope_parameters` (transformers 5), or from `rope_theta` and `rope_scaling`."""
    field = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    scaling = config.get(field) or {}
    if not isinstance(scaling, dict):
        raise ConversionError(f"{where}: {field}={scaling!r}, expected an object or null")
    theta = _positive({**DEFAULTS, **config, **scaling}, "rope_theta", where)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    known = {"rope_theta", "rope_type", "type"}
    where = f"{where}: {field}"
    match kind:
        case "default":
            result = None
            known |= {"factor"} if scaling.get("factor") == 1 else set()
        case "linear":
            known |= {"factor"}
            result = settings.LinearScaling(factor=_positive(scaling, "factor", where))
        case "llama3":
            known |= {"factor", "low_freq_factor", "high_freq_factor"}
            known |= {"original_max_position_embeddings"}
            result = settings.Llama3Scaling(
                factor=_positive(scaling, "factor", where),
                low_freq_factor=_positive(scaling, "low_freq_factor", where),
                high_freq_factor=_positive(scaling, "high_freq_factor", where),
                original_max_positions=_count(scaling, "original_max_position_embeddings", where),
            )
        case _:
            raise ConversionError(
                f"{where}: rope_type={kind!r} is not supported; default, linear and llama3 are"
            )
    for name in sorted(set(scaling) - known):
        if not (name == "partial_rotary_factor" and scaling[name] == 1):
            raise ConversionError(f"{where}: {name}={scaling[name]!r} is not supported")
    return settings.Rope(theta=theta, scaling=result)


def _refuse_unsupported(config: dict[str, Any], where: str) -> None:
    if config.get("model_type") != "llama":
        raise ConversionError(
            f"{where}: model_type={config.get('model_type')!r} is not supported; 'llama' is"
        )
    if config.get("architectures") not in (None, ["LlamaForCausalLM"]):
        raise ConversionError(
            f"{where}: architectures={config['architectures']!r}, expected ['LlamaForCausalLM']"
        )
    for field, neutral in NEUTRAL.items():
        if field in config and config[field] not in neutral:
            raise ConversionError(
                f"{where}: {field}={config[field]!r} is not supported; {neutral[0]!r} is"
            )


def _head_dim(config: dict[str, Any], embed_dim: int, heads: int, where: str) -> int:
    if config.get("head_dim") is not None:
        head_dim = _count(config, "head_dim", where)
    elif embed_dim % heads:
        raise ConversionError(
            f"{where}: num_attention_heads={heads} does not divide hidden_size={embed_dim}"
            " and there is no head_dim"
        )
    else:
        head_dim = embed_dim // heads
    if head_dim % 2:
        raise ConversionError(f"{where}: head_dim={head_dim} is odd; rotary embedding needs pairs")
    return head_dim


def _value(config: dict[str, Any], field: str, where: str) -> Any:
    if config.get(field) is None:
        raise ConversionError(f"{where}: has no {field}")
    return config[field]


def _count(config: dict[str, Any], field: str, where: str) -> int:
    value = _value(config, field, where)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ConversionError(f"{where}: {field}={value!r}, expected a positive integer")
    return value


def _positive(config: dict[str, Any], field: str, where: str) -> float:
    value = _value(config, field, where)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e30:
        raise ConversionError(f"{where}: {field}={value!r}, expected a positive number")
    return float(value)


def _truth(config: dict[str, Any], field: str, where: str) -> bool:
    value = _value(config, field, where)
    if not isinstance(value, bool):
        raise ConversionError(f"{where}: {field}={value!r}, expected true or false")
    return value
