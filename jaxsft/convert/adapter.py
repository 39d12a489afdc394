"""A LoRA adapter in PEFT's format, merged into the tensors of its base as they are read.

W + scale * B A in float32, for each adapted matrix W [out, in]; A: [rank, in], B: [out, rank].
Source: arXiv:2106.09685 section 4.1; arXiv:2312.03732 for the scale of rank-stabilised LoRA.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.convert import huggingface, source, untrusted
from jaxsft.convert.safetensors_read import Directory
from jaxsft.errors import ConversionError

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Fields that change the arithmetic in ways that are not merged here, with the values that don't.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
    "monteclora_config": (None,),
    "revision": (None, "main"),
}
# Read here, or without effect once trained. PEFT itself ignores fan_in_fan_out of linear layers.
_KNOWN = {
    *("base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "modules_to_save", "init_lora_weights", "bias", "fan_in_fan_out"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "auto_mapping"),
    *("inference_mode", "megatron_config", "megatron_core", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "peft_version"),
}
# These ways to begin change the base too, which the files of the base don't know.
_CHANGED_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE)
_FACTOR = re.compile(r"(.+)\.(lora_A|lora_B)\.weight|(.+)\.(lora_embedding_[AB])")


class Merged:
    """The tensors of a base with an adapter merged in."""

    def __init__(self, base: huggingface.Tensors, directory: Path):
        """Reads headers and the configuration only.

        Raises:
            ConversionError: an adapter of another kind, or one that doesn't fit the base.
        """
        self._base, self._where = base, str(directory)
        self._config = untrusted.read_json(directory / source.ADAPTER)
        self._refuse_unsupported(directory)
        self._tensors = Directory(directory, WEIGHTS)
        self._factors: dict[str, dict[str, str]] = {}  # base tensor -> A and B
        self._replaced: dict[str, str] = {}  # base tensor -> ours
        for name in self._tensors.names():
            self._place(name)
        self._check_shapes()
        self._check_targets()
        self.notes = self._notes()

    def names(self) -> list[str]:
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """That of the base, which an export "as the source" has."""
        return self._base.dtype(name)

    def read(self, name: str) -> np.ndarray:
        """The merged tensor in float32; one that the adapter leaves alone, as in the base."""
        if name in self._replaced:  # an adapted embedding is saved with its base
            weight = self._tensors.read(self._replaced[name])
        else:
            weight = self._base.read(name)
        if name not in self._factors:
            return weight
        merged = self._product(name)  # in place from here: no third array of this size
        merged *= np.float32(self._scale(name))
        merged += weight
        return merged

    def _product(self, name: str) -> np.ndarray:
        factors = self._factors[name]
        a, b = (self._finite(factors[key]) for key in "AB")
        return (b @ a).T if "embedding" in factors["A"].rpartition(".")[2] else b @ a

    def _finite(self, ours: str) -> np.ndarray:
        array = self._tensors.read(ours).astype(np.float32)
        if not np.isfinite(array).all():
            raise ConversionError(f"{self._where}: {ours} holds NaN or infinite values")
        return array

    def _scale(self, name: str) -> float:
        module = name.removesuffix(".weight")
        rank = self._tensors.shape(self._factors[name]["A"])[0]
        alpha = self._pattern("alpha_pattern", module, self._config["lora_alpha"])
        return alpha / rank**0.5 if self._config.get("use_rslora") else alpha / rank

    def _pattern(self, field: str, module: str, default: Any) -> Any:
        """The value of the first pattern that matches the end of a module's name."""
        patterns = self._config.get(field) or {}
        for pattern, value in patterns.items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return value
        return default

    def _refuse_unsupported(self, directory: Path) -> None:
        where = directory / source.ADAPTER
        for field, values in _NEUTRAL.items():
            if field in self._config and self._config[field] not in values:
                raise ConversionError(
                    f"{where}: {field}={self._config[field]!r} is not supported; {values[0]!r} is"
                )
        begun = self._config.get("init_lora_weights")
        if isinstance(begun, str) and _CHANGED_BASE.match(begun):
            raise ConversionError(
                f"{where}: init_lora_weights={begun!r} changes the base's weights too; convert the"
                " adapter to plain LoRA with PEFT first"
            )
        for field in ("r", "lora_alpha"):
            value = self._config.get(field)
            if not isinstance(value, int | float):
                raise ConversionError(f"{where}: {field}={value!r}, expected a number")
        if not (directory / WEIGHTS).is_file() and (directory / "adapter_model.bin").is_file():
            raise ConversionError(
                f"{directory}: has adapter_model.bin only, a pickle, which can run code when read;"
                f" save it with PEFT as {WEIGHTS}"
            )

    def _place(self, name: str) -> None:
        """Says what a tensor of the adapter is for."""
        path = name.removeprefix(_PREFIX).replace(".modules_to_save.default.", ".")
        path = path.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
        if match := _FACTOR.fullmatch(path):
            target = (match[1] or match[3]) + ".weight"
            factor = (match[2] or match[4])[-1]
            self._factors.setdefault(target, {})[factor] = name
        else:
            target = path
            self._replaced[target] = name
        if target not in set(self._base.names()):
            raise ConversionError(f"{self._where}: {name} has no {target} in the base to go to")

    def _check_shapes(self) -> None:
        for target, factors in self._factors.items():
            if set(factors) != {"A", "B"}:
                raise ConversionError(f"{self._where}: {target} has factor {sorted(factors)} only")
            a, b = (self._tensors.shape(factors[key]) for key in "AB")
            shape = self._base.shape(target)
            embedding = "embedding" in factors["A"].rpartition(".")[2]
            rank = self._pattern("rank_pattern", target.removesuffix(".weight"), self._config["r"])
            wanted = shape[::-1] if embedding else shape
            if a != (rank, wanted[1]) or b != (wanted[0], rank):
                raise ConversionError(
                    f"{self._where}: {target} has factors {a} and {b}, expected"
                    f" {(rank, wanted[1])} and {(wanted[0], rank)}"
                )
        for target, name in self._replaced.items():
            if self._tensors.shape(name) != self._base.shape(target):
                raise ConversionError(
                    f"{self._where}: {name} has shape {self._tensors.shape(name)}, the base"
                    f" {self._base.shape(target)}"
                )

    def _check_targets(self) -> None:
        """Each module that the configuration names must have been adapted somewhere."""
        wanted = self._config.get("target_modules")
        if not self._factors:
            raise ConversionError(f"{self._where}: target_modules={wanted!r} match nothing")
        for module in wanted if isinstance(wanted, list) else ():
            if not any(_ends(target, module) for target in self._factors):
                raise ConversionError(
                    f"{self._where}: target_modules has {module!r}, but no tensor of it is there"
                )
        for module in self._config.get("modules_to_save") or ():
            if not any(_ends(target, module) for target in self._replaced):
                raise ConversionError(
                    f"{self._where}: modules_to_save has {module!r}, but no tensor of it is there"
                )

    def _notes(self) -> tuple[str, ...]:
        merged, replaced = len(self._factors), len(self._replaced)
        unknown = [
            f"{self._where}: unknown field {name}={value!r} of {source.ADAPTER} has no effect"
            for name, value in self._config.items()
            if value and name not in _KNOWN | _NEUTRAL.keys()
        ]
        told = f"{self._where}: {merged} matrices merged, {replaced} tensors replaced"
        return (told, *unknown)


def _ends(target: str, module: str) -> bool:
    path = target.rpartition(".")[0]
    return path == module or path.endswith(f".{module}")
