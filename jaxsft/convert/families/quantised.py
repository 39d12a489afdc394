"""Checkpoints whose weights are stored in few bits: refused by the method's name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsft.convert.families.registry import FAMILIES
from jaxsft.errors import ConversionError
from jaxsft.files import untrusted

# Where programs write how they quantised; older ones have no field in config.json.
FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_FIELDS = ("quantization_config", "compression_config", "quantization")  # the last of MLX
_METHODS = ("quant_method", "quant_algo", "quantization", "load_in_4bit", "load_in_8bit")
_INSTEAD = (
    "training needs the unquantised weights: name the checkpoint that it was made from"
    " (base_model in its model card), or dequantise it and save it in bfloat16"
)


def is_mxfp4(config: Mapping[str, Any]) -> bool:
    """Whether weights are stored in mxfp4, in a family of which these can be read."""
    how, family = config.get("quantization_config"), FAMILIES.get(str(config.get("model_type")))
    found = how.get("quant_method") if isinstance(how, dict) else None
    return family is not None and family.mxfp4 and found == "mxfp4"


def refuse(config: Mapping[str, Any], where: str) -> None:
    """Refuses a config.json of quantised weights.

    Raises:
        ConversionError: how they are quantised, and what to use instead.
    """
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, dict) else {}):
        for field in _FIELDS:
            if found := holder.get(field):
                raise ConversionError(
                    f"{where}: {field}={_short(found)}: the weights are quantised"
                    f" ({method(found)}); {_INSTEAD}"
                )


def refuse_files(directory: Path) -> None:
    """Refuses a directory in which a file beside config.json says that weights are quantised.

    Raises:
        ConversionError: as `refuse`.
    """
    for name in FILES:
        if (directory / name).is_file():
            found = untrusted.read_json(directory / name)
            raise ConversionError(
                f"{directory / name}: {_short(found)}: the weights are quantised"
                f" ({method(found)}); {_INSTEAD}; if they are not, remove this file"
            )


def method(found: Any) -> str:
    """The name of the method: awq, gptq, bitsandbytes, fp8 and so on."""
    if not isinstance(found, dict):
        return "unknown method"
    inner = found.get("quantization")
    if isinstance(inner, dict):  # of modelopt
        return method(inner)
    values = [str(found[name]) for name in _METHODS if found.get(name) not in (None, False)]
    bits = [f"{found[name]} bits" for name in ("bits", "w_bit") if found.get(name)]
    return ", ".join([*values[:1], *bits]) or "unknown method"


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 80 else text[:77] + "..."
