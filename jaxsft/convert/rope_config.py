"""Rotary embeddings of config.json: rope_parameters (transformers 5) or rope_scaling and others."""

import math
from typing import Any

from jaxsft.convert.fields import Fields
from jaxsft.errors import ConversionError
from jaxsft.model import settings
from jaxsft.model.settings import Rope

LAYER_TYPES = {"full_attention", "sliding_attention"}
_SPELLINGS = {"su": "longrope"}  # of the first Phi-3 checkpoints


def read_rope(
    fields: Fields,
    head_dim: int,
    *,
    theta: float,
    share: float | None = None,
    interleaved: bool = False,
    layer_type: str | None = None,
) -> Rope:
    """The rope of a model, or of its layers of one type.

    Args:
        theta: where config.json has none.
        share: of head_dim that is rotated where config.json has none; None: always all of it.
        layer_type: a key of rope_parameters, where those are given by type of layer.
    """
    field = "rope_parameters" if fields.raw("rope_parameters") is not None else "rope_scaling"
    found, name = _object(fields, field), field
    if layer_type is not None and field == "rope_parameters":
        by_type = Fields(found, {}, f"{fields.where}: {field}")
        for other in set(found) - LAYER_TYPES:
            raise by_type.refuse(other, f"is not supported; {' and '.join(LAYER_TYPES)} are")
        found, name = _object(by_type, layer_type), f"{field}.{layer_type}"
    defaults = {"rope_theta": fields.raw("rope_theta") or theta}
    rope = Fields(found, defaults, f"{fields.where}: {name}")
    return Rope(
        theta=_theta(fields, rope),
        scaling=_scaling(fields, rope, head_dim, share, layer_type),
        share=_share(fields, rope, share),
        interleaved=interleaved,
    )


def _object(fields: Fields, name: str) -> dict[str, Any]:
    found = fields.raw(name)
    if not isinstance(found, dict | None):
        raise fields.refuse(name, "is not supported; expected an object or null")
    return found or {}


def _theta(fields: Fields, rope: Fields) -> float:
    if fields.raw("rope_theta") is not None:
        fields.positive("rope_theta")
    return rope.positive("rope_theta")


def _share(fields: Fields, rope: Fields, share: float | None) -> float:
    if share is None:
        rope.only("partial_rotary_factor", 1)
        fields.only("partial_rotary_factor", 1)
        return 1.0
    for found in (rope, fields):
        value = found.maybe_positive("partial_rotary_factor")
        if value is not None:
            if value > 1:
                raise found.refuse("partial_rotary_factor", "is more than all; expected at most 1")
            return value
    return share


def _scaling(
    fields: Fields, rope: Fields, head_dim: int, share: float | None, layer_type: str | None
) -> settings.Scaling | None:
    kind = rope.raw("rope_type") or rope.raw("type") or "default"
    rope.raw("type")
    fields.raw("original_max_position_embeddings")  # means nothing without scaling
    match _SPELLINGS.get(kind, kind):
        case "default":
            rope.only("factor", 1)
            result = None
        case "linear":
            result = settings.LinearScaling(factor=rope.positive("factor"))
        case "dynamic":
            result = settings.DynamicScaling(
                factor=rope.positive("factor"),
                original_max_positions=fields.count("max_position_embeddings"),
            )
        case "llama3":
            result = settings.Llama3Scaling(
                factor=rope.positive("factor"),
                low_freq_factor=rope.positive("low_freq_factor"),
                high_freq_factor=rope.positive("high_freq_factor"),
                original_max_positions=_original(fields, rope),
            )
        case "yarn":
            result = _yarn(fields, rope, layer_type)
        case "longrope":
            turned = int(head_dim * _share(fields, rope, share))
            result = _longrope(fields, rope, (turned + 1) // 2)
        case _:
            raise ConversionError(
                f"{rope.where}: rope_type={kind!r} is not supported; default, linear, dynamic,"
                " llama3, yarn and longrope are"
            )
    rope.raw("partial_rotary_factor")
    for name in rope.unread():
        raise rope.refuse(name, "is not supported")
    return result


def _original(fields: Fields, rope: Fields) -> int:
    """The length before scaling; where both have one, transformers takes the outer one."""
    for found in (fields, rope):
        if found.raw("original_max_position_embeddings") is not None:
            rope.raw("original_max_position_embeddings")
            return found.count("original_max_position_embeddings")
    return fields.count("max_position_embeddings")


def _yarn(fields: Fields, rope: Fields, layer_type: str | None) -> settings.YarnScaling:
    factor = rope.positive("factor")
    if layer_type is not None:
        rope.only("truncate", True)  # transformers looks for it elsewhere then
    scales = [rope.maybe_positive(name) for name in ("mscale", "mscale_all_dim")]
    attention_factor = rope.maybe_positive("attention_factor")
    if attention_factor is None and None not in scales:
        attention_factor = _yarn_size(factor, scales[0]) / _yarn_size(factor, scales[1])
    return settings.YarnScaling(
        factor=factor,
        original_max_positions=_original(fields, rope),
        beta_fast=rope.maybe_positive("beta_fast") or 32.0,
        beta_slow=rope.maybe_positive("beta_slow") or 1.0,
        attention_factor=attention_factor or _yarn_size(factor, 1.0),
        whole_dimensions=rope.raw("truncate") is None or rope.truth("truncate"),
    )


def _yarn_size(factor: float, scale: Any) -> float:
    """Source: arXiv:2309.00071 eq. 22."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _longrope(fields: Fields, rope: Fields, num_rotations: int) -> settings.LongRopeScaling:
    original = _original(fields, rope)
    factor = rope.maybe_positive("factor") or fields.count("max_position_embeddings") / original
    return settings.LongRopeScaling(
        short_factors=rope.numbers("short_factor", num_rotations),
        long_factors=rope.numbers("long_factor", num_rotations),
        original_max_positions=original,
        attention_factor=rope.maybe_positive("attention_factor") or longrope_size(factor, original),
    )


def longrope_size(factor: float, original: int) -> float:
    """What queries and keys are multiplied by where config.json has no attention_factor.

    Source: arXiv:2402.13753, in the form of Phi-3's published code.
    """
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
