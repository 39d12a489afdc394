"""A trained adapter as a directory that PEFT and vLLM read: complete, or not there at all."""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxsft.convert import source
from jaxsft.convert.adapter import peft_names
from jaxsft.convert.adapter.peft_names import Factors, Target
from jaxsft.convert.adapter.tensor_roles import PREFIX, WEIGHTS
from jaxsft.convert.export import adapter_check, card, directory, peft_config
from jaxsft.convert.families import config_json, tensor_table
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.tensors import huggingface, safetensors_read, safetensors_write
from jaxsft.devices import progress
from jaxsft.devices.mesh import parts
from jaxsft.errors import ConversionError
from jaxsft.files import whole_files
from jaxsft.model import adapter, vocabulary
from jaxsft.model.adapter_plan import AdapterSpecs, without_adapters
from jaxsft.model.state import Params


def export_adapter(
    params: Params,
    base: Pretrained,
    path: Path | str,
    specs: AdapterSpecs,
    whole: Collection[str],
    *,
    rslora: bool = False,
    dropout: float = 0.0,
    template: str | None = None,
    about: card.Card | None = None,
    tokenizer: Path | None = None,
    frozen_dtype: str = "source",
) -> directory.Exported:
    """Writes the adapters of these parameters, reads them back, and only then gives them a name.

    Every process of a multi-host run takes part; the first one writes.

    Args:
        params: with adapters beside their weights.
        rslora: how adapter_config.json says the scales.
        dropout: that it was trained with, for who trains it further.
        template: the chat template trained with; None: the base's own.
        tokenizer: a tokenizer directory; None: the base's own.
        frozen_dtype: of the base in training, which whoever opens the adapter is told of.

    Raises:
        ConversionError: what PEFT has no name for, values that are not finite, or files that read
            back differently.
    """
    path = Path(path)
    directory.refuse_foreign(path)
    made = peft_config.layout(base, without_adapters(params), specs, whole)
    partial = path.with_name(f".{path.name}.partial")
    first = jax.process_index() == 0
    tensors, ranks, scales = _tensors(params, made)
    tensors |= _saved(params, base, made)
    dora = any(spec.dora for spec in specs.values())
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        config = peft_config.fields(base, made, ranks, scales, rslora, dora, dropout)
        safetensors_write.write_json(partial / source.ADAPTER, config)
        directory.copy_tokenizer(base, tokenizer, partial)
        used = directory.write_template(partial, template)
        names = directory.base_name(base), directory.license_of(base)
        text = card.render(about or card.Card(), *names, used, library="peft")
        whole_files.write_text(partial / "README.md", text)
        _write(partial, tensors, frozen_dtype)
    told = (_effect(params, base, partial), *_base_notes(base))
    if first:
        directory.publish(partial, path)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"jaxsft export {path.name}")
    files = sorted(file.name for file in path.iterdir()) if first else []
    return directory.Exported(path, tuple(files), (), (), 0, told)


def _write(partial: Path, tensors: Mapping[str, np.ndarray], frozen_dtype: str) -> None:
    """The tensors in one file, read back, and their digests."""
    planned = [
        safetensors_write.Planned(name, array.dtype, array.shape) for name, array in tensors.items()
    ]
    digests = safetensors_write.write(partial, planned, tensors.__getitem__, 2**62, WEIGHTS)
    safetensors_write.write_json(
        partial / directory.MARKER, {"tensors": digests, "frozen_dtype": frozen_dtype}
    )
    _verify(partial, tensors)


@progress.during("writing tensors")
def _tensors(
    params: Params, made: peft_config.AdapterLayout
) -> tuple[dict[str, np.ndarray], dict[str, int], dict[str, float]]:
    """The adapters' tensors, and each one's rank and scale by its key."""
    tensors, ranks, scales = {}, {}, {}
    for target in made.targets:
        whole = peft_names.fused(target, _factors(params, target))
        prefix = PREFIX + target.prefix(made.keys)
        for end, array in peft_names.to_peft(target, whole).items():
            if not np.isfinite(array).all():
                raise ConversionError(f"{prefix}.{end}: holds NaN or infinite values; not exported")
            tensors[f"{prefix}.{end}"] = array
        progress.mark()
        ranks[target.key], scales[target.key] = whole.a.shape[-1], whole.scale
    return tensors, ranks, scales


def _factors(params: Params, target: Target) -> dict[str, Factors]:
    found = {}
    for part in target.parts:
        above, _, name = part.path.rpartition(".")
        tree: Any = params
        for key in above.split(".") if above else ():
            tree = tree[key]
        own = tree.get(name + adapter.SUFFIX)
        if own is None:
            continue
        index = part.layer
        experts = () if target.num_experts is None else (target.num_experts,)
        a, b = _in_two_dims(own, index, experts)
        scale = float(huggingface.on_host(own[adapter.SCALE][index]))
        magnitude = own.get(adapter.MAGNITUDE)
        found[part.path] = Factors(
            a,
            b,
            scale,
            None if magnitude is None else huggingface.on_host(magnitude[index]).reshape(-1),
        )
    return found


def _in_two_dims(
    own: Any, index: tuple[int, ...], experts: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """A [*E, in, R] and B [*E, R, out] of a layer; see Adapted.factors."""
    rank = own[adapter.A].shape[-1]

    def a_of(part: str) -> np.ndarray:
        return huggingface.on_host(own[part][index]).reshape(*experts, -1, rank)

    def b_of(part: str) -> np.ndarray:
        return huggingface.on_host(own[part][index]).reshape(*experts, rank, -1)

    a, b = a_of(adapter.A), b_of(adapter.B)
    if adapter.A_START not in own:
        return a, b
    a_start, b_start = a_of(adapter.A_START), b_of(adapter.B_START)
    a, b = [a, a - a_start], [b - b_start, b_start]
    return np.concatenate(a, axis=-1), np.concatenate(b, axis=-2)


def _saved(
    params: Params, base: Pretrained, made: peft_config.AdapterLayout
) -> dict[str, np.ndarray]:
    """Parameters that were trained whole; float32, since the base's dtype would round them."""
    own, found = without_adapters(params), {}
    in_memory = config_json.module_names(base.config, str(base.path))
    for tensor in tensor_table.tensors(own, base.table):
        if tensor.name in made.saved:
            array, _ = huggingface.to_theirs(own, tensor, np.dtype("float32"))
            found[PREFIX + in_memory(tensor.name)] = array
    if base.settings.tied_embeddings:  # PEFT looks for both names of what it ties
        embedding, head = (
            PREFIX + in_memory(tensor_table.tensor_name(base.table, leaf))
            for leaf in (vocabulary.EMBEDDING, vocabulary.HEAD)
        )
        found |= {head: found[embedding]} if embedding in found else {}
    return found


def _effect(params: Params, base: Pretrained, partial: Path) -> str:
    """Compares logits; what was found."""
    mesh = jax.sharding.get_abstract_mesh()
    rows = 1 if mesh.empty else parts("batch", mesh.shape)
    effect = adapter_check.compare(params, base, partial, rows)
    return (
        f"read back, its logits are within {effect.read_back:.2g} of those trained, and up to"
        f" {effect.base:.2g} from the base's"
    )


def _base_notes(base: Pretrained) -> tuple[str, ...]:
    if not source.is_gguf(base.path):
        return ()
    return (
        f"its base is {base.path.name}, which PEFT can't load: serve the merged model"
        " (config.checkpoint.merge=True, or tools/export_hf.py --merge)",
    )


def _verify(partial: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Compares the file with what was meant to be written."""
    written = safetensors_read.Directory(partial, WEIGHTS)
    assert set(written.names()) == set(tensors), partial
    for name, array in tensors.items():
        if safetensors_write.digest(written.read(name)) != safetensors_write.digest(array):
            raise ConversionError(f"{partial}: {name} reads back differently; is the disk sound?")
    json.loads((partial / source.ADAPTER).read_text())
