"""adapter_config.json of an adapter that was trained here: what it adapts, as PEFT names it."""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jaxsft.convert import source
from jaxsft.convert.adapter import peft_names
from jaxsft.convert.adapter.peft_names import Target
from jaxsft.convert.families import config_json, tensor_table
from jaxsft.convert.families.tensor_table import Tree
from jaxsft.convert.pretrained import Pretrained
from jaxsft.errors import ConversionError
from jaxsft.model import state
from jaxsft.model.adapter_plan import AdapterSpecs

_PEFT_VERSION = "0.21.2"  # whose fields the file has


@dataclasses.dataclass(frozen=True)
class AdapterLayout:
    """What an adapter's directory holds: decided before a step is made."""

    targets: tuple[Target, ...]
    saved: Mapping[str, str]  # tensor of the base that is trained whole -> its module

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(target.key for target in self.targets)


def layout(
    base: Pretrained, shapes: Tree, specs: AdapterSpecs, whole: Collection[str]
) -> AdapterLayout:
    """Which modules of transformers the adapters of a run are.

    Args:
        shapes: of the model's own parameters.
        whole: parameters that are trained whole, by dotted paths.

    Raises:
        ConversionError: what PEFT has no name for.
    """
    in_memory = config_json.module_names(base.config, str(base.path))
    targets = peft_names.targets(base.table, shapes, specs, in_memory)
    for target in targets:
        missing = [part.path for part in target.parts if part.path not in specs]
        if missing and any(spec.dora for spec in specs.values()):
            raise ConversionError(
                f"config.lora.dora=True: {target.key} is one matrix of {', '.join(specs)} and"
                f" {missing[0]}, which has no adapter; target it too"
            )
    saved = {}
    for tensor in tensor_table.tensors(shapes, base.table):
        paths = {".".join(weight.row.ours) for weight in tensor.weights}
        if not paths & set(whole):
            continue
        if paths - set(whole) or ".experts" in tensor.name:
            raise ConversionError(
                f"config.lora.train_whole: {tensor.name} can't be saved whole by PEFT; leave"
                f" {min(paths)} out, or set config.checkpoint.export=False"
            )
        saved[tensor.name] = in_memory(tensor.name).rpartition(".")[0]
    _refuse_split_modules(base, shapes, in_memory, saved)
    return AdapterLayout(tuple(targets), saved)


def _refuse_split_modules(
    base: Pretrained, shapes: Tree, in_memory: peft_names.InMemory, saved: Mapping[str, str]
) -> None:
    """PEFT keeps modules whole: weight and bias."""
    for tensor in tensor_table.tensors(shapes, base.table):
        module = in_memory(tensor.name).rpartition(".")[0]
        if module in saved.values() and tensor.name not in saved:
            raise ConversionError(
                f"config.lora.train_whole: PEFT saves {module} whole, but {tensor.name} is not"
                " trained; add it"
            )


def fields(
    base: Pretrained,
    made: AdapterLayout,
    ranks: Mapping[str, int],
    scales: Mapping[str, float],
    rslora: bool,
    dora: bool,
    dropout: float = 0.0,
) -> dict[str, Any]:
    """adapter_config.json, with every field that PEFT reads."""
    alphas = {key: scales[key] * (rank**0.5 if rslora else rank) for key, rank in ranks.items()}
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    others = _other_modules(base, made)
    modules = [target.key for target in made.targets if not target.is_parameter]
    parameters = [target.key for target in made.targets if target.is_parameter]
    modules = [name.removesuffix(".weight") for name in modules]
    tied = base.settings.tied_embeddings and {"embed_tokens", "embed_in"} & {
        name.rpartition(".")[2] for name in (*modules, *made.saved.values())
    }
    return {
        **_NEUTRAL,
        "base_model_name_or_path": _name_of(base),
        "peft_version": _PEFT_VERSION,
        "r": rank,
        "lora_alpha": _whole_number(alpha),
        "target_modules": _shortest(modules, others),
        "target_parameters": _shortest(parameters, _other_parameters(base, made)) or None,
        "modules_to_save": _shortest(sorted(set(made.saved.values())), others) or None,
        "rank_pattern": _pattern(ranks, rank),
        "alpha_pattern": {k: _whole_number(v) for k, v in _pattern(alphas, alpha).items()},
        "use_rslora": rslora,
        "use_dora": dora,
        "lora_dropout": dropout,
        "ensure_weight_tying": bool(tied),
    }


# Values of PEFT for what is not used here.
_NEUTRAL: dict[str, Any] = {
    **{"task_type": "CAUSAL_LM", "peft_type": "LORA", "auto_mapping": None, "revision": None},
    **{"inference_mode": True, "exclude_modules": None, "bias": "none"},
    **{"fan_in_fan_out": False, "init_lora_weights": True, "layers_to_transform": None},
    **{"layers_pattern": None, "megatron_config": None, "megatron_core": "megatron.core"},
    **{"trainable_token_indices": None, "loftq_config": {}, "eva_config": None},
    **{"corda_config": None, "lora_ga_config": None, "velora_config": None, "use_qalora": False},
    **{"alora_invocation_tokens": None, "qalora_group_size": 16, "monteclora_config": None},
    **{"layer_replication": None, "lora_bias": False, "use_bdlora": None, "arrow_config": None},
    **{"kasa_config": None},
}


def _most_common(values: Iterable[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def _whole_number(value: float) -> float:
    return int(value) if value == int(value) else value


def _pattern(values: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """The values that are not the default, by expressions that match their keys alone."""
    keys = {key.removesuffix(".weight"): value for key, value in values.items()}
    others = [key for key, value in keys.items() if value == default]
    found = {}
    for value in dict.fromkeys(keys.values()):
        if value == default:
            continue
        mine = [key for key, one in keys.items() if one == value]
        rest = others + [key for key, one in keys.items() if one not in (value, default)]
        found |= {re.escape(name): value for name in _shortest(mine, rest)}
    return found


def _shortest(names: Sequence[str], others: Collection[str]) -> list[str]:
    """The shortest ends of these names that are no ends of others; each once.

    PEFT takes an end for the name of all modules that have it.
    """
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        end = next(
            (end for end in ends if not any(f".{one}".endswith(f".{end}") for one in others)), name
        )
        found[end] = None
    return list(found)


def _other_modules(base: Pretrained, made: AdapterLayout) -> list[str]:
    """Modules of the base that have no adapter and are not saved whole."""
    in_memory = config_json.module_names(base.config, str(base.path))
    named = {in_memory(name).rpartition(".")[0] for name in _tensor_names(base)}
    adapted = {target.module for target in made.targets if not target.is_parameter}
    return sorted(named - adapted - set(made.saved.values()))


def _other_parameters(base: Pretrained, made: AdapterLayout) -> list[str]:
    in_memory = config_json.module_names(base.config, str(base.path))
    return sorted({in_memory(name) for name in _tensor_names(base)} - made.keys)


def _tensor_names(base: Pretrained) -> list[str]:
    """Of the whole model: other parts of a multimodal one have modules of the same names."""
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    own = [tensor.name for tensor in tensor_table.tensors(shapes, base.table)]
    return own + (base.others.names() if base.others is not None else [])


def _name_of(base: Pretrained) -> str:
    """What PEFT loads the base from: a hub id as it stands, any other place from everywhere."""
    return base.source if source.is_hub_id(base.source) else str(base.path.absolute())
