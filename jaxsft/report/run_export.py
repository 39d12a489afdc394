"""The trained parameters of a run as a directory that others read, and the card in it."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path

import jaxsft
from jaxsft.config import Config
from jaxsft.convert.export.card import Card, Metric
from jaxsft.convert.export.directory import ExportDtype, Exported, export
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache.manifest import TrainedOn
from jaxsft.files import places
from jaxsft.model.state import Params
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
) -> Exported:
    """The parameters as a Hugging Face directory.

    Args:
        dtype: of the weights; None: config.checkpoint.export_dtype.
    """
    with places.using(f"the export to {directory}", directory):
        return export(
            params,
            base,
            directory,
            dtype=dtype or config.checkpoint.export_dtype,
            template=trained_on.template,
            end_of_turn_ids=trained_on.end_of_turn_ids,
            about=about,
            tokenizer=tokenizer_directory(config),
        )


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
