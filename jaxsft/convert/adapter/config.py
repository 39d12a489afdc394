"""adapter_config.json as PEFT reads it: which modules it adapts, which it keeps whole. No jax here.

Source: peft 0.21, tuners/tuners_utils.py and tuners/lora/model.py; compared with its results.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from jaxsft.convert import source
from jaxsft.errors import ConversionError
from jaxsft.files import untrusted

# Fields that change the arithmetic in ways that are not merged here, with the values that don't.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
    "monteclora_config": (None,),
    "kasa_config": (None,),
    "revision": (None, "main"),
}
# Read here, or without effect once trained. PEFT itself ignores fan_in_fan_out of linear layers.
_KNOWN = {
    *("base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "modules_to_save", "init_lora_weights", "bias", "fan_in_fan_out"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "auto_mapping"),
    *("inference_mode", "megatron_config", "megatron_core", "loftq_config", "eva_config"),
    *("corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "peft_version"),
    *("use_dora", "target_parameters"),
    *("velora_config", "runtime_config"),  # the first changes the backward pass only
}
# These ways to begin change the base too, which the files of the base don't know.
_CHANGED_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga", re.IGNORECASE)
_ALL_LINEAR = "all-linear"
_TIED_NAMES = ("embed_tokens", "lm_head")  # what ensure_weight_tying looks for
_FIRST_NUMBER = r".*?\.[^.]*\.(\d+)\."  # of the layer, not of an expert in it


class AdapterConfig:
    """The rules of one adapter, asked about names of modules."""

    def __init__(self, directory: Path, in_memory: Callable[[str], str] = str):
        """
        Args:
            in_memory: what transformers calls in memory what a file of the base calls a tensor.
                The methods below take a file's names of modules.

        Raises:
            ConversionError: a field that is ill-typed, or changes more than LoRA does.
        """
        self._directory, self.where = directory, str(directory / source.ADAPTER)
        self._values = untrusted.read_json(directory / source.ADAPTER)
        self._in_memory = in_memory
        self._refuse_unsupported()
        self.target_modules = self._names("target_modules")
        named = self._names("target_parameters") or ()
        self.target_parameters = (named,) if isinstance(named, str) else named
        self._excluded = self._names("exclude_modules")
        self._layers = self._indices()
        self._layer_patterns = self._names("layers_pattern") or ()
        kept = self._names("modules_to_save") or ()
        self.modules_to_save = (kept,) if isinstance(kept, str) else kept
        self._ranks, self._alphas = self._patterns("rank_pattern"), self._patterns("alpha_pattern")

    def targeted(self, module: str, linear: Collection[str]) -> bool:
        """Whether the module gets factors.

        Args:
            linear: the modules that "all-linear" stands for.
        """
        if not self.target_modules or self._is_excluded(module):
            return False
        if isinstance(self.target_modules, str):
            if self.target_modules.lower() == _ALL_LINEAR:
                return module in linear
            return self._matches("target_modules", self.target_modules, self._named(module))
        return any(self.names(target, module) for target in self.target_modules)

    def targets_parameter(self, key: str) -> bool:
        """Whether a parameter, by its name with that of its module, gets factors."""
        return any(self.is_named(name, key) for name in self.target_parameters)

    @staticmethod
    def is_named(name: str, key: str) -> bool:
        """Whether one entry of target_parameters means the parameter."""
        return key == name or key.endswith(f".{name}")

    @property
    def has_magnitudes(self) -> bool:
        """Whether each module's outputs have magnitudes of their own, as in DoRA."""
        return bool(self._values.get("use_dora"))

    @property
    def dropout(self) -> float:
        """Share of a module's input that is dropped before its factors, in training."""
        value = self._values.get("lora_dropout") or 0.0
        if not _is_number(value) or not 0 <= value < 1:
            raise self.refuse("lora_dropout", "is not supported; expected a share below 1")
        return float(value)

    def names(self, target: str, module: str) -> bool:
        """Whether one entry of target_modules means the module, exclude_modules aside."""
        module = self._named(module)
        if module == target:
            return True
        return module.endswith(f".{target}") and self._in_chosen_layer(module)

    def kept(self, module: str) -> bool:
        """Whether modules_to_save has the whole module in the adapter."""
        return any(self._named(module).endswith(name) for name in self.modules_to_save)

    @property
    def ties_kept(self) -> bool:
        """Whether embedding and head of a tied base are saved as one."""
        return self._ensures_tying and any(map(_is_tied_name, self.modules_to_save))

    @property
    def ties_factors(self) -> bool:
        """Whether embedding and head of a tied base have the same factors."""
        if not self._ensures_tying or self.ties_kept or not self.target_modules:
            return False
        if isinstance(self.target_modules, str):
            wanted = self.target_modules
            return any(self._matches("target_modules", wanted, name) for name in _TIED_NAMES)
        return any(map(_is_tied_name, self.target_modules))

    def rank(self, module: str) -> int:
        return self._first_match(
            "rank_pattern", self._ranks, self._named(module), self._values["r"]
        )

    def scale(self, module: str) -> float:
        """What B A is multiplied by; arXiv:2312.03732 for rank-stabilised LoRA."""
        rank = self.rank(module)
        alpha = self._first_match(
            "alpha_pattern", self._alphas, self._named(module), self._values["lora_alpha"]
        )
        return alpha / rank**0.5 if self._values.get("use_rslora") else alpha / rank

    def unknown(self) -> list[str]:
        """A line for each field that has no effect here, though it is set."""
        return [
            f"{self._directory}: unknown field {name}={value!r} of {source.ADAPTER} has no effect"
            for name, value in self._values.items()
            if value and name not in _KNOWN | NEUTRAL.keys()
        ]

    @property
    def _ensures_tying(self) -> bool:
        return bool(self._values.get("ensure_weight_tying"))

    def _named(self, module: str) -> str:
        """A module of a file as transformers names it."""
        return self._in_memory(f"{module}.").removesuffix(".")

    def _is_excluded(self, module: str) -> bool:
        module = self._named(module)
        # A module that is kept whole has no factors beside it.
        if any(
            self._matches("modules_to_save", rf"(.*\.)?{name}(\..*)?", module)
            for name in self.modules_to_save
        ):
            return True
        if not self._excluded:
            return False
        if isinstance(self._excluded, str):
            return self._matches("exclude_modules", self._excluded, module)
        return any(module == name or module.endswith(f".{name}") for name in self._excluded)

    def _in_chosen_layer(self, module: str) -> bool:
        if self._layers is None:
            return True
        field, patterns = "layers_pattern", self._layer_patterns
        expressions = [patterns] if isinstance(patterns, str) else patterns
        for expression in expressions or [None]:
            lead = _FIRST_NUMBER if expression is None else rf"(?:.*?\.)?{expression}\.(\d+)\."
            if found := self._compiled(field, lead).match(module):
                return int(found[found.re.groups]) in self._layers
        return False

    def _first_match(
        self, field: str, patterns: Mapping[str, Any], module: str, default: Any
    ) -> Any:
        """The value of the first pattern that matches the end of a module's name."""
        for pattern, value in patterns.items():
            if self._matches(field, rf"(.*\.)?({pattern})", module):
                return value
        return default

    def _matches(self, field: str, pattern: str, module: str) -> bool:
        return self._compiled(field, pattern).fullmatch(module) is not None

    def _compiled(self, field: str, pattern: str) -> re.Pattern[str]:
        try:
            return re.compile(pattern)
        except re.error as error:
            raise self.refuse(field, f"is no regular expression ({error})") from None

    def _refuse_unsupported(self) -> None:
        for field, values in NEUTRAL.items():
            if field in self._values and self._values[field] not in values:
                raise self.refuse(field, f"is not supported; {values[0]!r} is")
        begun = self._values.get("init_lora_weights")
        if isinstance(begun, str) and _CHANGED_BASE.match(begun):
            raise self.refuse(
                "init_lora_weights",
                "changes the base's weights too; convert the adapter to plain LoRA with PEFT first",
            )
        for field in ("r", "lora_alpha"):
            if not _is_number(self._values.get(field)):
                value = self._values.get(field)
                raise ConversionError(f"{self.where}: {field}={value!r}, expected a number")

    def _names(self, field: str) -> str | tuple[str, ...] | None:
        value = self._values.get(field)
        if value is None or isinstance(value, str):
            return value
        return tuple(self._list(field, value, lambda item: isinstance(item, str), "names"))

    def _indices(self) -> set[int] | None:
        """The layers that layers_to_transform names; None: all."""
        value = self._values.get("layers_to_transform")
        if value is None or value == []:
            return None
        chosen = [value] if isinstance(value, int) else value
        return set(self._list("layers_to_transform", chosen, _is_index, "numbers of layers"))

    def _patterns(self, field: str) -> Mapping[str, Any]:
        value = self._values.get(field) or {}
        if not isinstance(value, dict) or not all(map(_is_number, value.values())):
            raise self.refuse(field, "is not supported; expected a number for each pattern")
        return value

    def _list(self, field: str, value: Any, fits: Callable[[Any], bool], wanted: str) -> list[Any]:
        if not isinstance(value, list) or not all(map(fits, value)):
            raise self.refuse(field, f"is not supported; expected a list of {wanted}")
        return value

    def refuse(self, field: str, wanted: str) -> ConversionError:
        return ConversionError(f"{self.where}: {field}={self._values.get(field)!r} {wanted}")


def _is_tied_name(name: str) -> bool:
    return name.rpartition(".")[2] in _TIED_NAMES


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
