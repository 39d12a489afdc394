"""The hyper-parameters that a .gguf file needs for a config.json. No jax here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsft.convert.families import rope as rope_config
from jaxsft.convert.families.gguf_names import Architecture
from jaxsft.convert.gguf import architectures
from jaxsft.convert.gguf import config as gguf_config
from jaxsft.errors import ConversionError


@dataclasses.dataclass(frozen=True)
class Hyper:
    architecture: Architecture
    metadata: dict[str, Any]  # key with its architecture -> int, float or str
    tensors: dict[str, np.ndarray]  # those that are no weights
    notes: tuple[str, ...]  # what llama.cpp can't have, and was left out: show them


def from_config(config: Mapping[str, Any], where: str) -> Hyper:
    """The hyper-parameters that llama.cpp has to know.

    Args:
        config: of config.json; fields that are not there have transformers' defaults.

    Raises:
        ConversionError: a field that llama.cpp's graph for this family doesn't honour.
    """
    architecture = architectures.by_model_type(config.get("model_type"), where)
    full = _with_defaults(config, where)
    _refuse_other_values(full, architecture, where)
    _refuse_other_layers(full, architecture, where)
    _refuse_other_heads(full, architecture, where)
    values: dict[str, Any] = {}
    for key, field in architecture.keys.items():
        if full.get(field) is not None:
            values[key] = float(full[field]) if field in architecture.floats else full[field]
    notes = []
    window = full.get("sliding_window")
    ignored = architecture.full_attention_every is None and _has_window(full)
    if ignored and window < values["context_length"]:
        values["context_length"] = window
        notes.append(
            f"{where}: sliding_window={window} can't be told to llama.cpp; the file's context is"
            f" {window} tokens, within which it changes nothing"
        )
    rope, tensors = _rope(full, architecture, where)
    if gguf_config.LONG in tensors:
        original = rope["rope.scaling.original_context_length"]
        notes.append(
            f"{where}: llama.cpp takes long_factor where its context is longer than {original}"
            " tokens, for short texts too"
        )
    metadata = {f"{architecture.name}.{key}": value for key, value in (values | rope).items()}
    return Hyper(architecture, metadata, tensors, tuple(notes))


def _with_defaults(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration as transformers completes it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        full = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config)).to_dict()
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ConversionError(f"{where}: {error}") from None
    if full.get("head_dim") is None:
        full["head_dim"] = full["hidden_size"] // full["num_attention_heads"]
    return full


def _refuse_other_values(full: dict[str, Any], a: Architecture, where: str) -> None:
    fixed = dict(a.fixed)
    if a.states_query_scale:
        scalar = a.query_scalar(
            full["num_hidden_layers"],
            full["hidden_size"],
            full["num_attention_heads"],
            full["head_dim"],
        )
        fixed["query_pre_attn_scalar"] = (scalar,)
    for key, value in a.absent.items():  # None can't be said: the key would be missing
        if full.get(a.keys[key]) is None:
            fixed[a.keys[key]] = (value,)
    for field, values in fixed.items():
        if full.get(field) not in values:
            raise ConversionError(
                f"{where}: {field}={full.get(field)!r} can't be written as GGUF: llama.cpp's"
                f" {a.name} has {values[0]!r}"
            )


def _refuse_other_heads(full: dict[str, Any], a: Architecture, where: str) -> None:
    heads, embed_dim = full["num_attention_heads"], full["hidden_size"]
    if not a.states_head_dim and full["head_dim"] * heads != embed_dim:
        raise ConversionError(
            f"{where}: head_dim={full['head_dim']} can't be written as GGUF: llama.cpp's {a.name}"
            f" has hidden_size / num_attention_heads = {embed_dim / heads:g}"
        )


def _has_window(full: dict[str, Any]) -> bool:
    return full.get("sliding_window") is not None and full.get("use_sliding_window") is not False


def _refuse_other_layers(full: dict[str, Any], a: Architecture, where: str) -> None:
    kinds = full.get("layer_types")
    layers = full["num_hidden_layers"]
    if kinds is None:
        return
    wanted = ["full_attention"] * layers
    if a.full_attention_every is not None:
        wanted = gguf_config.every_nth_full(layers, a.full_attention_every)
    if kinds != wanted:
        raise ConversionError(
            f"{where}: layer_types={kinds} can't be written as GGUF: llama.cpp's {a.name} has"
            f" {wanted}"
        )


def _rope(
    full: dict[str, Any], a: Architecture, where: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The keys of the rotary embedding, and the factors of its frequencies as tensors."""
    rope, head_dim = full["rope_parameters"], full["head_dim"]
    if a.local_rope_theta is not None:
        rope, local = rope["full_attention"], rope["sliding_attention"]
        if local != {"rope_type": "default", "rope_theta": a.local_rope_theta}:
            raise ConversionError(
                f"{where}: sliding_attention={local} can't be written as GGUF: llama.cpp's"
                f" {a.name} has rope_theta={a.local_rope_theta:g}"
            )
    partial = rope.get("partial_rotary_factor") or 1.0
    if partial != 1.0 and not a.partial_rotary:
        raise ConversionError(f"{where}: partial_rotary_factor={partial} can't be written as GGUF")
    found: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    found["rope.dimension_count"] = rotated = int(head_dim * partial)
    kind = rope.get("rope_type", "default")
    known = rope_config.PARAMETERS
    read = known[kind] if kind in known else tuple(rope)  # the others have no effect
    scaling = {key: rope[key] for key in read if rope.get(key) is not None}
    match kind, sorted(scaling):
        case "default", _:
            return found, {}
        case "llama3", _:
            factors = gguf_config.llama3_factors(scaling, rope["rope_theta"], rotated)
            return found, {gguf_config.FREQUENCIES: factors}
        case "linear", ["factor"]:
            return found | _scaling(kind, scaling), {}
        case "yarn", ["factor", "original_max_position_embeddings"]:
            positions = scaling["original_max_position_embeddings"]
            original = {"rope.scaling.original_context_length": positions}
            return found | _scaling(kind, scaling) | original, {}
        case "longrope", _ if a.long_factors:
            keys, tensors = _longrope(scaling, full["max_position_embeddings"])
            return found | keys, tensors
        case _:
            raise ConversionError(
                f"{where}: rope_type={kind!r} with {scaling} can't be written as GGUF"
            )


def _scaling(kind: str, scaling: dict[str, Any]) -> dict[str, Any]:
    return {"rope.scaling.type": kind, "rope.scaling.factor": float(scaling["factor"])}


def _longrope(
    scaling: dict[str, Any], max_positions: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    original = scaling["original_max_position_embeddings"]
    factor = scaling.get("factor") or max_positions / original
    size = scaling.get("attention_factor") or rope_config.longrope_size(factor, original)
    keys = {
        gguf_config.ATTENTION_FACTOR: float(size),
        "rope.scaling.original_context_length": original,
    }
    factors = {gguf_config.LONG: "long_factor", gguf_config.SHORT: "short_factor"}
    return keys, {name: np.array(scaling[key], np.float32) for name, key in factors.items()}
