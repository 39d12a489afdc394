"""The flags of programs that let a model answer: how its tokens are chosen, and computed."""

from typing import Any, Literal

from absl import flags

_FIELDS = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p") + (
    *("repetition_penalty", "seed"),
)


def define(max_new_tokens: int) -> None:
    """Call it at module level next to the main that reads them.

    Args:
        max_new_tokens: default of that flag.
    """
    flags.DEFINE_enum(
        "dtype", "auto", ["auto", "float32", "bfloat16"], "auto: float32 on CPU, else bfloat16"
    )
    flags.DEFINE_integer("max_new_tokens", max_new_tokens, "of an answer", 1)
    flags.DEFINE_float("temperature", 0.0, "0: the likeliest tokens", 0.0)
    flags.DEFINE_integer("top_k", None, "of so many of the likeliest tokens", 1)
    flags.DEFINE_float("top_p", None, "of the likeliest that come to this probability")
    flags.DEFINE_float("min_p", None, "of those this likely, in parts of the likeliest")
    flags.DEFINE_float("repetition_penalty", 1.0, "1: none")
    flags.DEFINE_integer("seed", 0, "of what chance gives", 0)


def sampling() -> dict[str, Any]:
    """The fields of a `generation.sampling.Sampling`."""
    return {name: flags.FLAGS[name].value for name in _FIELDS}


def dtype(platform: str) -> Literal["float32", "bfloat16"]:
    """Of the computation, on a jax platform such as "cpu"."""
    asked = flags.FLAGS["dtype"].value
    exact = asked == "float32" or (asked == "auto" and platform == "cpu")
    return "float32" if exact else "bfloat16"
