"""A Hugging Face config.json <-> the decoder's settings."""

from collections.abc import Callable
from typing import Any

from jaxsft.convert.families import multimodal, quantised
from jaxsft.convert.families.family import Family
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.registry import FAMILIES
from jaxsft.convert.families.shared_fields import check_same_layer_types, head_dim
from jaxsft.errors import ConversionError
from jaxsft.model import settings

# Fields that change the arithmetic of some model or program where they have other values than
# these, and that nothing in the weights would show. A family that supports other values reads the
# field; what it did not read is refused by name.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rope_interleaved": (False,),
    "attention_chunk_size": (),
    "no_rope_layers": ([],),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "query_pre_attn_scalar": (),
    "attention_multiplier": (),
    **dict.fromkeys(("embedding_multiplier", "residual_multiplier", "logits_scaling"), (1,)),
    "logit_scale": (1,),
    "attn_temperature_tuning": (False,),
    "clip_qkv": (),
    "use_parallel_residual": (False,),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), (0, 1)),
    **{"mlp_only_layers": ([],), "decoder_sparse_step": (1,)},
    "use_bidirectional_attention": (False,),
    "is_causal": (True,),
    "per_layer_config": ({},),
    **dict.fromkeys(("full_attn_mod", "interpolate_factor"), (1,)),
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"), (False,)),
    "pruned_heads": ({},),
}
# Fields that a family which does not read them can't have: their tensors would be left over.
# Without those, other values than these are told.
WEIGHTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("attention_bias", "mlp_bias", "lm_head_bias", "use_bias"), (False,)),
    **dict.fromkeys(("use_qk_norm", "qk_layernorm"), (False,)),
}
# Other names of the activation, which transformers does not read where the family has one already.
ACTIVATION_NAMES = ("hidden_act", "hidden_activation", "activation_function")
FSDP = "FSDP"  # before the name of a class that was wrapped when its config.json was written
# They act in training only; here there is none of them.
TRAINING_ONLY = {
    *("attention_dropout", "embd_pdrop", "resid_pdrop", "residual_dropout", "embedding_dropout"),
    *("hidden_dropout", "output_router_logits", "router_jitter_noise"),
}
HARMLESS = {
    *("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype"),
    *("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "is_decoder"),
    *("unk_token_id", "decoder_start_token_id", "tokenizer_class", "prefix", "cls_token_id"),
    *("task_specific_params", "mask_token_id"),
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
    *("cache_implementation", "_sliding_window_pattern", "sliding_window_pattern"),
    "classifier_dropout",
    "router_aux_loss_coef",  # of the loss that output_router_logits switches on
    "pretraining_tp",  # slices of the same products
}


def family_of(config: dict[str, Any], where: str) -> Family:
    """The family that model_type names.

    Raises:
        ConversionError: one that is not supported, or another model than its causal decoder.
    """
    name = config.get("model_type")
    wrapper = multimodal.wrapper(config)
    if wrapper is not None:
        _check_class(config, wrapper.hf_class, where)
        return family_of(multimodal.text_config(config, where), f"{where}: text_config")
    if not isinstance(name, str) or name not in FAMILIES:
        known = ", ".join([*FAMILIES, *multimodal.WRAPPERS])
        raise ConversionError(f"{where}: model_type={name!r} is not supported; {known} are")
    _check_class(config, FAMILIES[name].hf_class, where)
    return FAMILIES[name]


def module_names(config: dict[str, Any], where: str) -> Callable[[str], str]:
    """What transformers calls in memory what the family's table calls a tensor."""
    changes = family_of(config, where).module_names

    def in_memory(name: str) -> str:
        for theirs, module in changes:
            name = name.replace(theirs, module)
        return name

    return in_memory


def _check_class(config: dict[str, Any], expected: str, where: str) -> None:
    """The first Llamas spell theirs LLaMAForCausalLM."""
    found = config.get("architectures")
    if isinstance(found, list):
        named = [str(name).removeprefix(FSDP).lower() for name in found]
    else:
        named = found
    if named not in (None, [], [expected.lower()]):
        raise ConversionError(f"{where}: architectures={found!r}, expected [{expected!r}]")


def refuse_unsupported(config: dict[str, Any], where: str) -> Family:
    """The family, known before anything but config.json is read or downloaded.

    Raises:
        ConversionError: one that is not supported, or quantised weights that can't be read.
    """
    family = family_of(config, where)
    if not quantised.is_mxfp4(config):
        quantised.refuse(config, where)
    return family


def settings_from_config(
    config: dict[str, Any], where: str
) -> tuple[settings.DecoderSettings, list[str]]:
    """The decoder that a config.json describes, and a line for each field that was not understood.

    Raises:
        ConversionError: a field that is missing, ill-typed, or asks for what isn't supported.
    """
    family = family_of(config, where)
    quantised.refuse(config, where)
    told = multimodal.unused(config, where)
    if multimodal.wrapper(config) is not None:
        config, where = multimodal.text_config(config, where), f"{where}: text_config"
    fields = Fields(config, family.defaults, where)
    decoder = settings.DecoderSettings(**_common(fields), **family.read(fields))
    unread = fields.unread()
    for name in unread:
        if name not in HARMLESS | family.harmless | {"model_type", "architectures"}:
            _check_unread(fields, name, family)
    return decoder, told + fields.told()


def _check_unread(fields: Fields, name: str, family: Family) -> None:
    """Tells a field that the family does not read.

    Raises:
        ConversionError: one that asks for what isn't supported.
    """
    value = fields.raw(name)
    if name in NEUTRAL:
        fields.only(name, *NEUTRAL[name])
    elif name in ("sliding_window", "use_sliding_window"):
        _check_window(fields, name)
    elif name == "layer_types":
        check_same_layer_types(fields)
    elif name == "auto_map":
        _tell_standard_code(fields, family)
    elif name in TRAINING_ONLY:
        if value:
            fields.tell(f"{name}={value!r} is not applied in training")
    elif name in WEIGHTS:
        if value is not None and value not in WEIGHTS[name]:
            fields.tell(f"{name}={value!r} has no effect in this family, as in transformers")
    elif name in ACTIVATION_NAMES:
        used = [fields.raw(other) for other in ACTIVATION_NAMES if other != name]
        if value is not None and value not in used:
            fields.tell(f"{name}={value!r} has no effect in this family, as in transformers")
    else:
        fields.tell(f"unknown field {name}={value!r} has no effect")


def _common(fields: Fields) -> dict[str, Any]:
    heads = fields.count("num_attention_heads")
    kv_heads = fields.maybe_count("num_key_value_heads") or heads
    if heads % kv_heads:
        raise fields.refuse("num_key_value_heads", f"does not divide num_attention_heads={heads}")
    return {
        "vocab_size": fields.count("vocab_size"),
        "num_layers": fields.count("num_hidden_layers"),
        "embed_dim": fields.count("hidden_size"),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim(fields),
        "mlp_dim": fields.count("intermediate_size"),
        "tied_embeddings": fields.truth("tie_word_embeddings"),
        "max_positions": fields.count("max_position_embeddings"),
        "init_stddev": fields.positive("initializer_range"),
    }


def _check_window(fields: Fields, name: str) -> None:
    """A window that no text reaches changes nothing; one that is switched off or on by a flag that
    the family has not is told.
    """
    window = fields.maybe_count("sliding_window")
    if name == "sliding_window" and window is not None:
        longest = fields.count("max_position_embeddings")
        if window < longest:
            raise fields.refuse(name, f"is not supported in this family; null or {longest} is")
    if name == "use_sliding_window" and window is not None and not fields.flag(name):
        fields.tell(f"{name}=False has no effect in this family, as in transformers")


def _tell_standard_code(fields: Fields, family: Family) -> None:
    """Says that code which comes with a model is not used where transformers has it too.

    Raises:
        ConversionError: code of another class: it may compute anything.
    """
    standard = {family.hf_class, family.hf_class.replace("ForCausalLM", "Config")}
    map_ = fields.raw("auto_map")
    used = ("AutoConfig", "AutoModelForCausalLM")
    named = map_ if isinstance(map_, dict) else {}
    names = {str(named[key]).rpartition(".")[2] for key in used if key in named}
    if not names <= standard:
        raise fields.refuse(
            "auto_map",
            f"is not supported: code that comes with a model is not"
            f" run, and its classes are not {' and '.join(sorted(standard))}",
        )
    fields.tell(f"auto_map={map_!r} is not followed; the standard model is used")
