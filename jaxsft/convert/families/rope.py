"""Rotary embeddings of config.json: rope_parameters (transformers 5) or rope_scaling and others."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxsft.convert.families.fields import Fields
from jaxsft.errors import ConversionError
from jaxsft.model import settings
from jaxsft.model.settings import Rope

LAYER_TYPES = {"full_attention", "sliding_attention"}
_SPELLINGS = {"su": "longrope"}  # of the first Phi-3 checkpoints
_ORIGINAL = "original_max_position_embeddings"
# The parameters of each rope_type beside rope_theta and partial_rotary_factor.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": (
        *("factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": ("factor", _ORIGINAL, "short_factor", "long_factor", "attention_factor"),
}


def read_rope(
    fields: Fields,
    head_dim: int,
    *,
    theta: float,
    share: float | None = None,
    interleaved: bool = False,
    spellings: Mapping[str, str] = _SPELLINGS,
    absent: Mapping[str, Any] | None = None,
) -> Rope:
    """The one rope of a model.

    Args:
        theta: where config.json has none.
        share: of head_dim that is rotated where config.json has none; None: always all of it.
        spellings: further names of rope_types.
        absent: the parameters of a config.json without any.
    """
    name, found = _one_object(fields, {"rope_theta": theta, "partial_rotary_factor": share})
    if not found and fields.raw("rope_parameters") is None:
        found = {**(absent or {})}
    rope = Fields(found, {"rope_theta": fields.raw("rope_theta") or theta}, _at(fields, name))
    if fields.raw("rope_theta") is not None:
        fields.positive("rope_theta")
    result = Rope(
        theta=rope.positive("rope_theta"),
        scaling=_scaling(_Reading(fields, rope, head_dim, share, spellings)),
        share=_share(fields, rope, share),
        interleaved=interleaved,
    )
    _tell_unread(fields, rope)
    return result


def read_ropes(
    fields: Fields, head_dim: int, *, full_theta: float, sliding_theta: float
) -> dict[str, Rope]:
    """The ropes of a model that has one for each type of layer.

    An outer rope_scaling and rope_theta are those of the layers that see all.

    Args:
        full_theta, sliding_theta: where config.json has none in rope_parameters.
    """
    found = _object(fields, "rope_parameters")
    by_type = Fields(found, {}, _at(fields, "rope_parameters"))
    for other in set(found) - LAYER_TYPES:
        raise by_type.refuse(other, f"is not supported; {' and '.join(LAYER_TYPES)} are")
    outer = fields.maybe_positive("rope_theta")
    thetas = {"full_attention": outer or full_theta, "sliding_attention": sliding_theta}
    scaled = _full_layers(fields, by_type)
    ropes = {}
    for kind, default in thetas.items():
        values = scaled if kind == "full_attention" else _object(by_type, kind)
        where = _at(fields, f"rope_parameters.{kind}" if found else "rope_scaling")
        rope = Fields(values, {"rope_theta": default}, where)
        scaling = _scaling(_Reading(fields, rope, head_dim, by_type=True))
        ropes[kind] = Rope(theta=rope.positive("rope_theta"), scaling=scaling)
        _share(fields, rope, None)
        _tell_unread(fields, rope)
    return ropes


def _at(fields: Fields, name: str) -> str:
    return f"{fields.where}: {name}"


def _object(fields: Fields, name: str) -> dict[str, Any]:
    found = fields.raw(name)
    if not isinstance(found, dict | None):
        raise fields.refuse(name, "is not supported; expected an object or null")
    return found or {}


def _one_object(fields: Fields, defaults: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """rope_scaling, or where there is none rope_parameters: as in transformers 5, which takes the
    first and forgets the second.

    Args:
        defaults: what else rope_parameters may hold, with the family's values.

    Raises:
        ConversionError: what it forgets says more of the rope than what it takes.
    """
    scaling, parameters = (_object(fields, name) for name in ("rope_scaling", "rope_parameters"))
    if not scaling or not parameters:
        return ("rope_scaling", scaling) if scaling else ("rope_parameters", parameters)
    for name, default in defaults.items():
        outer = default if fields.raw(name) is None else fields.raw(name)
        if parameters.get(name) not in (None, scaling.get(name, outer)):
            raise fields.refuse(
                "rope_scaling",
                f"stands beside rope_parameters={parameters!r}, which transformers then ignores"
                f" with its {name}; write all of it into rope_parameters and remove rope_scaling",
            )
    if scaling != parameters:
        fields.tell(
            f"rope_scaling={scaling!r} takes the place of rope_parameters={parameters!r}, as in"
            " transformers"
        )
    return "rope_scaling", scaling


def _full_layers(fields: Fields, by_type: Fields) -> dict[str, Any]:
    """The parameters of layers that see all: rope_scaling changes those in rope_parameters."""
    scaling = _object(fields, "rope_scaling")
    values = _object(by_type, "full_attention")
    if not scaling:
        return values
    if fields.raw("rope_parameters") is None:
        values = {"rope_type": "default"}  # which transformers begins with: `type` is not read
    elif by_type.raw("full_attention") is None:
        raise fields.refuse(
            "rope_scaling", "stands beside rope_parameters without full_attention; remove one"
        )
    else:
        fields.tell(f"rope_scaling={scaling!r} is put into rope_parameters.full_attention")
    if "rope_type" in values and "rope_type" not in scaling and "type" in scaling:
        raise fields.refuse(
            "rope_scaling",
            f"has type={scaling['type']!r}, which transformers ignores in a model with ropes by"
            " type of layer (rope_parameters has its own rope_type); spell it rope_type",
        )
    return values | scaling


def _tell_unread(fields: Fields, rope: Fields) -> None:
    """Says which keys have no effect, as unknown fields of config.json are told.

    Raises:
        ConversionError: ropes by type of layer in a family that has one rope.
    """
    for name in rope.unread():
        if name in LAYER_TYPES:
            raise rope.refuse(name, "is not supported; this family has one rope for all layers")
        if rope.raw(name) is not None:
            at = rope.where.removeprefix(f"{fields.where}: ")
            fields.tell(f"{at}: {name}={rope.raw(name)!r} has no effect, as in transformers")


def _share(fields: Fields, rope: Fields, share: float | None) -> float:
    if share is None:
        rope.only("partial_rotary_factor", 1)
        fields.only("partial_rotary_factor", 1)
        return 1.0
    name = "partial_rotary_factor"
    outer = fields.maybe_positive(name)
    inner = rope.maybe_positive(name)
    value, found = (outer, fields) if inner is None else (inner, rope)
    if value is None:
        return share
    if value > 1:
        raise found.refuse(name, "is more than all; expected at most 1")
    return value


@dataclasses.dataclass(frozen=True)
class _Reading:
    """The objects of config.json that the parameters of one rope are read from."""

    fields: Fields  # of config.json
    rope: Fields  # of the object in it
    head_dim: int
    share: float | None = None
    spellings: Mapping[str, str] = dataclasses.field(default_factory=lambda: _SPELLINGS)
    by_type: bool = False  # of layers of one type


def _scaling(reading: _Reading) -> settings.Scaling | None:
    fields, rope = reading.fields, reading.rope
    kind = rope.raw("rope_type") or rope.raw("type") or "default"
    rope.raw("type")
    fields.raw(_ORIGINAL)  # means nothing without scaling
    match reading.spellings.get(kind, kind) if isinstance(kind, str) else None:
        case "default":
            return None
        case "linear":
            return settings.LinearScaling(factor=rope.positive("factor"))
        case "dynamic":
            return settings.DynamicScaling(
                factor=rope.positive("factor"),
                original_max_positions=fields.count("max_position_embeddings"),
            )
        case "llama3":
            return settings.Llama3Scaling(
                factor=rope.positive("factor"),
                low_freq_factor=rope.positive("low_freq_factor"),
                high_freq_factor=rope.positive("high_freq_factor"),
                original_max_positions=_original(reading),
            )
        case "yarn":
            return _yarn(reading)
        case "longrope":
            return _longrope(reading)
        case _:
            hint = "; for text alone it is 'default'" if kind == "mrope" else ""
            *kinds, last = PARAMETERS
            raise ConversionError(
                f"{rope.where}: rope_type={kind!r} is not supported;"
                f" {', '.join(kinds)} and {last} are{hint}"
            )


def _original(reading: _Reading) -> int:
    """The length before scaling; where both have one, transformers takes the outer one, but not in
    ropes by type of layer.
    """
    fields, rope = reading.fields, reading.rope
    inner, outer = rope.maybe_count(_ORIGINAL), fields.maybe_count(_ORIGINAL)
    if outer is not None and reading.by_type:
        fields.tell(
            f"{_ORIGINAL}={outer} has no effect on ropes by type of layer, as in transformers"
        )
        outer = None
    return outer or inner or fields.count("max_position_embeddings")


def _yarn(reading: _Reading) -> settings.YarnScaling:
    fields, rope = reading.fields, reading.rope
    original = _original(reading)
    factor = rope.maybe_positive("factor") if rope.has("factor") else rope.positive("factor")
    factor = factor or fields.count("max_position_embeddings") / original
    whole = rope.raw("truncate") is None or rope.truth("truncate")
    if reading.by_type and not whole:  # transformers looks for it in rope_parameters itself
        fields.tell(f"truncate={rope.raw('truncate')!r} of a type of layer has no effect")
        whole = True
    scales = [rope.maybe_positive(name) for name in ("mscale", "mscale_all_dim")]
    attention_factor = rope.maybe_positive("attention_factor")
    if attention_factor is None and None not in scales:
        attention_factor = _yarn_size(factor, scales[0]) / _yarn_size(factor, scales[1])
    return settings.YarnScaling(
        factor=factor,
        original_max_positions=original,
        beta_fast=rope.maybe_positive("beta_fast") or 32.0,
        beta_slow=rope.maybe_positive("beta_slow") or 1.0,
        attention_factor=attention_factor or _yarn_size(factor, 1.0),
        whole_dimensions=whole,
    )


def _yarn_size(factor: float, scale: Any) -> float:
    """Source: arXiv:2309.00071 eq. 22."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _longrope(reading: _Reading) -> settings.LongRopeScaling:
    fields, rope = reading.fields, reading.rope
    turned = int(reading.head_dim * _share(fields, rope, reading.share))
    num_rotations, original = (turned + 1) // 2, _original(reading)
    factor = rope.maybe_positive("factor") or fields.count("max_position_embeddings") / original
    return settings.LongRopeScaling(
        short_factors=rope.numbers("short_factor", num_rotations),
        long_factors=rope.numbers("long_factor", num_rotations),
        original_max_positions=original,
        attention_factor=rope.maybe_positive("attention_factor") or longrope_size(factor, original),
    )


def longrope_size(factor: float, original: int) -> float:
    """The factor of queries and keys where config.json has no attention_factor.

    Source: arXiv:2402.13753, in the form of Phi-3's published code.
    """
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
