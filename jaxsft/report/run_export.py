"""The trained parameters of a run as a directory that others read, and the card in it."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path

from flax import nnx

import jaxsft
from jaxsft.config import Config
from jaxsft.convert.export import peft_config
from jaxsft.convert.export.adapter_directory import export_adapter
from jaxsft.convert.export.card import Card, Metric
from jaxsft.convert.export.directory import ExportDtype, Exported, export
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache.manifest import TrainedOn
from jaxsft.files import places
from jaxsft.model import adapter, quantised, state
from jaxsft.model.adapter_plan import AdapterSpecs, without_adapters
from jaxsft.model.state import Params
from jaxsft.training import parameters
from jaxsft.training.inputs import tokenizer_directory

_LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "transformers")


def export_params(
    config: Config,
    base: Pretrained,
    trained_on: TrainedOn,
    params: Params,
    directory: Path,
    about: Card,
    dtype: ExportDtype | None = None,
    merge: bool = False,
) -> Exported:
    """The trained parameters as a Hugging Face directory, or adapters as one of PEFT.

    Args:
        params: of the model, adapters beside their weights.
        dtype: of the weights of a model; None: config.checkpoint.export_dtype.
        merge: adapters go into their weights, and the whole model is written.
    """
    with places.using(f"the export to {directory}", directory):
        if config.lora is not None and not merge:
            specs, whole = adapted(config, base)
            written: Exported = export_adapter(
                params,
                base,
                directory,
                specs,
                whole,
                rslora=config.lora.rslora,
                template=trained_on.template,
                about=about,
                tokenizer=tokenizer_directory(config),
                frozen_dtype=config.model.frozen_dtype,
            )
        else:
            written = export(
                adapter.merged(params),
                base,
                directory,
                dtype=dtype or config.checkpoint.export_dtype,
                template=trained_on.template,
                end_of_turn_ids=trained_on.end_of_turn_ids,
                about=about,
                tokenizer=tokenizer_directory(config),
            )
    kept = _kept_base_notes(config, merge)
    return dataclasses.replace(written, told=(*written.told, *kept))


def _kept_base_notes(config: Config, merge: bool) -> tuple[str, ...]:
    kind = config.model.frozen_dtype
    if kind not in quantised.KINDS:
        return ()
    if config.lora is not None and not merge:
        return (f"it was trained on its base in {kind}: on another it predicts something else",)
    return (f"frozen weights are as they were trained with, in {kind}, and rounded",)


def adapted(config: Config, base: Pretrained) -> tuple[AdapterSpecs, frozenset[str]]:
    """The adapters of a run, and the paths of what it trains whole beside them."""
    declared = parameters.declare(config, base.settings)
    assert declared.adapters is not None
    own = nnx.traversals.flatten_mapping(without_adapters(declared.shapes))
    whole = frozenset(map(".".join, own)) - declared.frozen
    return declared.adapters.specs, whole


def refuse_what_has_no_name(config: Config, base: Pretrained) -> None:
    """Refuses before the first step what PEFT could not be given after the last.

    Raises:
        ConversionError: by the field of config.lora.
    """
    if config.lora is not None:
        specs, whole = adapted(config, base)
        _, shapes, _ = state.abstract(base.settings, "float32", "none")
        peft_config.layout(base, shapes, specs, whole)


def model_card(
    config: Config,
    trained_on: TrainedOn,
    before: Mapping[str, float],
    after: Mapping[str, float],
    command: str,
) -> Card:
    return Card(
        command=command,
        data_fingerprint=trained_on.fingerprint,
        mask_policy=(
            f"assistant messages ({config.data.train_on}), from the end of the generation prompt"
            f" to the end-of-turn token inclusive; of these: {', '.join(config.data.train_parts)}"
        ),
        metrics=tuple(
            Metric(name=name, before=before.get(name), after=after.get(name))
            for name in sorted(before.keys() | after.keys())
        ),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"jaxsft": jaxsft.__version__, "python": platform.python_version()} | found


def said_difference(difference: float) -> str:
    return f"logits within {difference:.2g} of transformers' on the same tokens"
