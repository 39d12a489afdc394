"""A trained adapter as a directory that PEFT and vLLM read: complete, or not there at all."""

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxsft.convert import source
from jaxsft.convert.adapter import peft_names
from jaxsft.convert.adapter.peft_names import Factors, Target
from jaxsft.convert.export import card, directory
from jaxsft.convert.families import config_json, tensor_table
from jaxsft.convert.families.tensor_table import Tree
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.tensors import huggingface, safetensors_read, safetensors_write
from jaxsft.errors import ConversionError
from jaxsft.files import whole_files
from jaxsft.model import adapter, state, vocabulary
from jaxsft.model.adapter_plan import AdapterSpecs, without_adapters
from jaxsft.model.state import Params

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
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


def export_adapter(
    params: Params,
    base: Pretrained,
    path: Path | str,
    specs: AdapterSpecs,
    whole: Collection[str],
    *,
    rslora: bool = False,
    template: str | None = None,
    about: card.Card | None = None,
    tokenizer: Path | None = None,
) -> directory.Exported:
    """Writes the adapters of these parameters, reads them back, and only then gives them a name.

    Every process of a multi-host run takes part; the first one writes.

    Args:
        params: with adapters beside their weights.
        rslora: how adapter_config.json says the scales.
        template: the chat template trained with; None: the base's own.
        tokenizer: a tokenizer directory; None: the base's own.

    Raises:
        ConversionError: what PEFT has no name for, values that are not finite, or files that read
            back differently.
    """
    path = Path(path)
    directory.refuse_foreign(path)
    made = layout(base, without_adapters(params), specs, whole)
    partial = path.with_name(f".{path.name}.partial")
    first = jax.process_index() == 0
    tensors, ranks, scales = _tensors(params, made)
    tensors |= _saved(params, base, made)
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        dtypes = {name: array.dtype for name, array in tensors.items()}
        planned = [
            safetensors_write.Planned(name, dtypes[name], array.shape)
            for name, array in tensors.items()
        ]
        digests = safetensors_write.write(partial, planned, tensors.__getitem__, 2**62, WEIGHTS)
        config = _config(base, made, ranks, scales, rslora, any(s.dora for s in specs.values()))
        safetensors_write.write_json(partial / source.ADAPTER, config)
        directory.copy_tokenizer(base, tokenizer, partial)
        used = directory.write_template(partial, template)
        text = card.render(
            about or card.Card(),
            directory.base_name(base),
            directory.license_of(base),
            used,
            library="peft",
        )
        whole_files.write_text(partial / "README.md", text)
        safetensors_write.write_json(partial / directory.MARKER, {"tensors": digests})
        _verify(partial, tensors)
        directory.publish(partial, path)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"jaxsft export {path.name}")
    files = sorted(file.name for file in path.iterdir()) if first else []
    return directory.Exported(path, tuple(files), (), (), 0)


def _tensors(
    params: Params, made: AdapterLayout
) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, float]]:
    """The adapters' tensors, and each one's rank and scale by its key."""
    tensors, ranks, scales = {}, {}, {}
    for target in made.targets:
        whole = peft_names.fused(target, _factors(params, target))
        prefix = _PREFIX + target.prefix(made.keys)
        for end, array in peft_names.to_peft(target, whole).items():
            if not np.isfinite(array).all():
                raise ConversionError(f"{prefix}.{end}: holds NaN or infinite values; not exported")
            tensors[f"{prefix}.{end}"] = array
        ranks[target.key], scales[target.key] = whole.a.shape[-1], whole.scale
    return tensors, ranks, scales


def _factors(params: Params, target: Target) -> dict[str, Factors]:
    found = {}
    for part in target.parts:
        above, _, name = part.path.rpartition(".")
        tree: Any = params
        for key in above.split(".") if above else ():
            tree = tree[key]
        parts = tree.get(name + adapter.SUFFIX)
        if parts is None:
            continue
        index = part.layer
        a, b = (huggingface.on_host(parts[key][index]) for key in (adapter.A, adapter.B))
        experts = () if target.num_experts is None else (target.num_experts,)
        rank = a.shape[-1]
        scale = float(huggingface.on_host(parts[adapter.SCALE][index]))
        magnitude = parts.get(adapter.MAGNITUDE)
        found[part.path] = Factors(
            a.reshape(*experts, -1, rank),
            b.reshape(*experts, rank, -1),
            scale,
            None if magnitude is None else huggingface.on_host(magnitude[index]).reshape(-1),
        )
    return found


def _saved(params: Params, base: Pretrained, made: AdapterLayout) -> dict[str, np.ndarray]:
    """Parameters that were trained whole, in the dtype of the base."""
    own, found = without_adapters(params), {}
    dtypes = directory.dtypes_of(own, base, "source")
    in_memory = config_json.module_names(base.config, str(base.path))
    for tensor in tensor_table.tensors(own, base.table):
        if tensor.name in made.saved:
            array, _ = huggingface.to_theirs(own, tensor, dtypes[tensor.name])
            found[_PREFIX + in_memory(tensor.name)] = array
    if base.settings.tied_embeddings:  # PEFT looks for both names of what it ties
        embedding, head = (
            _PREFIX + in_memory(tensor_table.tensor_name(base.table, leaf))
            for leaf in (vocabulary.EMBEDDING, vocabulary.HEAD)
        )
        found |= {head: found[embedding]} if embedding in found else {}
    return found


def _config(
    base: Pretrained,
    made: AdapterLayout,
    ranks: Mapping[str, int],
    scales: Mapping[str, float],
    rslora: bool,
    dora: bool,
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
        "ensure_weight_tying": bool(tied),
    }


# Values of PEFT for what is not used here.
_NEUTRAL: dict[str, Any] = {
    **{"task_type": "CAUSAL_LM", "peft_type": "LORA", "auto_mapping": None, "revision": None},
    **{"inference_mode": True, "exclude_modules": None, "lora_dropout": 0.0, "bias": "none"},
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


def _verify(partial: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Compares the file with what was meant to be written."""
    written = safetensors_read.Directory(partial, WEIGHTS)
    assert set(written.names()) == set(tensors), partial
    for name, array in tensors.items():
        if safetensors_write.digest(written.read(name)) != safetensors_write.digest(array):
            raise ConversionError(f"{partial}: {name} reads back differently; is the disk sound?")
    json.loads((partial / source.ADAPTER).read_text())
