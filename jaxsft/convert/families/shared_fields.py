"""Parts of config.json that several families share, read into settings."""

from collections.abc import Callable
from typing import Any

from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.model.settings import Activation, LayerKind, NormSettings, Rope

Settings = dict[str, Any]

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}
LAYER_NORM = NormSettings(centered=True, bias=True, scale_in_float32=True)
SLIDING, FULL = "sliding_attention", "full_attention"


def head_dim(fields: Fields) -> int:
    """The size of a head: head_dim, or hidden_size over the number of heads.

    Raises:
        ConversionError: one that is no even integer.
    """
    heads, embed_dim = fields.count("num_attention_heads"), fields.count("hidden_size")
    result = fields.maybe_count("head_dim") or embed_dim // heads
    if fields.raw("head_dim") is None and embed_dim % heads:
        raise fields.refuse(
            "num_attention_heads",
            f"does not divide hidden_size={embed_dim} and there is no head_dim",
        )
    if result % 2:
        name = "hidden_size" if fields.raw("head_dim") is None else "head_dim"
        raise fields.refuse(name, f"gives heads of {result}, which is odd; rotations need pairs")
    return result


def plain_parts(
    fields: Fields, *, theta: float = 1e4, interleaved: bool = False, share: float | None = None
) -> Settings:
    """Norm epsilon, activation and one rope for all layers."""
    rope = read_rope(fields, head_dim(fields), theta=theta, interleaved=interleaved, share=share)
    return {
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "rope": rope,
    }


def kinds(fields: Fields, windows: list[int | None], ropes: list[Rope | None]) -> Settings:
    if not any(windows) and all(rope == ropes[0] and rope is not None for rope in ropes):
        return {}
    pairs = zip(windows, ropes, strict=True)
    return {"layer_kinds": tuple(LayerKind(window=window, rope=rope) for window, rope in pairs)}


def layer_types(fields: Fields, default: Callable[[int], bool]) -> list[str]:
    """The type of each layer; `default` says whether layer i slides where there is no list."""
    num_layers = fields.count("num_hidden_layers")
    types = _named_types(fields)
    if types is None:
        return [SLIDING if default(i) else FULL for i in range(num_layers)]
    # One by one: what a list holds may be a list, which no set does.
    known = isinstance(types, list) and all(kind in (SLIDING, FULL) for kind in types)
    if not known or len(types) != num_layers:
        raise fields.refuse(
            "layer_types",
            f"is not supported; {num_layers} of {SLIDING!r} and {FULL!r} are",
        )
    return types


def _named_types(fields: Fields) -> Any:
    types = fields.raw("layer_types")
    if isinstance(types, list):  # the old name, which transformers translates
        return [FULL if kind == "attention" else kind for kind in types]
    return types


def check_same_layer_types(fields: Fields) -> None:
    """For a family whose layers are all of one type, whatever layer_types says.

    Raises:
        ConversionError: it says something else.
    """
    types = _named_types(fields)
    expected = FULL if fields.raw("sliding_window") is None else SLIDING
    if types is not None and (
        not isinstance(types, list) or {*map(str, types)} not in ({expected}, {FULL})
    ):
        raise fields.refuse("layer_types", f"is not supported; {expected!r} in all layers is")


def windows(fields: Fields, types: list[str]) -> list[int | None]:
    window = fields.maybe_count("sliding_window")
    if SLIDING in types and window is None:
        raise fields.refuse("sliding_window", f"contradicts the layer_types {types}")
    return [window if kind == SLIDING else None for kind in types]


def same_window(fields: Fields, rope: Rope) -> Settings:
    num_layers = fields.count("num_hidden_layers")
    windows = [fields.maybe_count("sliding_window")] * num_layers
    return kinds(fields, windows, [rope] * num_layers)


def attention_bias(fields: Fields) -> Settings:
    bias = fields.flag("attention_bias")
    return {"qkv_bias": bias, "attention_out_bias": bias}


def window_types(fields: Fields, slides_by_default: Callable[[int], bool]) -> list[str]:
    """The type of each layer, as by `layer_types`, but use_sliding_window=false is no window."""
    slides = fields.flag("use_sliding_window") and fields.raw("sliding_window") is not None
    types = layer_types(fields, lambda layer: slides and slides_by_default(layer))
    if SLIDING in types and not slides:
        raise fields.refuse("layer_types", "contradicts use_sliding_window and sliding_window")
    return types
