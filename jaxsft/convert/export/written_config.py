"""What an export's JSON files say otherwise than those of the base: no jax here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsft.convert.families import config_json
from jaxsft.convert.tensors import safetensors_write
from jaxsft.files import untrusted

DTYPE_KEYS = ("dtype", "torch_dtype")  # of transformers 5, and of those before
# They name Python files, which no export has: transformers would look for them and fail.
_CODE_KEYS = ("auto_map", "custom_pipelines")


def model_config(
    config: Mapping[str, Any], dtype: str, as_source: bool, ends: Sequence[int]
) -> dict[str, Any]:
    """The config.json of an export.

    Args:
        dtype: of the weights.
        as_source: they have the base's, so what it says of them stays, if it says one thing.
        ends: ids that end generation; none: as in the base.
    """
    changed = without_code(config)
    if isinstance(names := changed.get("architectures"), list):  # vLLM goes by them
        changed["architectures"] = [str(name).removeprefix(config_json.FSDP) for name in names]
    if not as_source or len(_said_dtypes(config)) > 1:
        changed = _with_dtype(changed, dtype)
        if not any(key in changed for key in DTYPE_KEYS):
            changed["dtype"] = dtype
    if ends:
        text = changed.get("text_config")
        if isinstance(text, dict) and "eos_token_id" in text:
            changed["text_config"] = text | {"eos_token_id": list(ends)}
        changed["eos_token_id"] = list(ends)
    return changed


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, and those in it, without what names Python files."""
    return {
        name: without_code(value) if _is_part(name, value) else value
        for name, value in config.items()
        if name not in _CODE_KEYS
    }


def drop_code(directory: Path) -> list[str]:
    """Rewrites the copied configurations that name Python files; returns what was left out."""
    told = []
    for path in sorted(directory.glob("*config.json")):  # in a vocabulary it is a token
        if not any(f'"{key}"'.encode() in path.read_bytes() for key in _CODE_KEYS):
            continue
        config = untrusted.read_json(path)
        changed = without_code(config)
        if changed != config:
            safetensors_write.write_json(path, changed)
            told.append(path.name)
    return told


def names_code(config: Mapping[str, Any]) -> bool:
    """Whether the configuration, or one in it, names Python files (auto_map)."""
    return without_code(config) != dict(config)


def _said_dtypes(config: Mapping[str, Any]) -> set[str]:
    said = {str(config[key]).removeprefix("torch.") for key in DTYPE_KEYS if key in config}
    for name, value in config.items():
        said |= _said_dtypes(value) if _is_part(name, value) else set()
    return said


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {
        name: dtype
        if name in DTYPE_KEYS
        else _with_dtype(value, dtype)
        if _is_part(name, value)
        else value
        for name, value in config.items()
    }


def _is_part(name: str, value: Any) -> bool:
    """Whether a field is the configuration of a part of the model: text_config and the like."""
    return name.endswith("_config") and name != "quantization_config" and isinstance(value, dict)
