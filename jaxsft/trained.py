"""What a checkpoint of a run holds for an export: base, parameters, what they were trained on."""

import dataclasses
import json
from typing import Any

import jax

from jaxsft import mesh, setup
from jaxsft.checkpoint import CheckpointStore
from jaxsft.config import Config, from_dict
from jaxsft.convert.pretrained import Pretrained
from jaxsft.errors import CheckpointError, ConfigError
from jaxsft.model import state
from jaxsft.model.state import Params
from jaxsft.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Trained:
    config: Config
    step: int
    base: Pretrained
    params: Params  # on one device
    trained_on: dict[str, Any]  # template and end_of_turn_ids among them


def read(workdir: Workdir, step: int | None) -> Trained:
    """The checkpoint of a step; None: the newest.

    Raises:
        ConfigError: no directory of a run.
        CheckpointError: no such checkpoint, or one that can't be read.
    """
    config = _read_config(workdir)
    store = CheckpointStore(workdir.checkpoints, config.checkpoint.keep)
    chosen = _chosen_step(store, step)
    base = setup.open_model(config, lambda topic, text: None)
    params = _read_params(store, chosen, base, config.model.parameter_dtype)
    trained_on = store.notes(chosen)["data"]
    store.close()
    return Trained(config, chosen, base, params, trained_on)


def _read_config(workdir: Workdir) -> Config:
    file = workdir.files / "config.json"
    if not file.is_file():
        raise ConfigError(f"--workdir={workdir.name}: has no config.json; is it a run's directory?")
    return from_dict(json.loads(file.read_text(encoding="utf-8")))


def _chosen_step(store: CheckpointStore, step: int | None) -> int:
    steps = store.steps()
    if not steps:
        raise CheckpointError(f"{store.directory}: no checkpoint has been saved yet")
    if step is not None and step not in steps:
        raise CheckpointError(f"--step={step}: {store.directory} has the steps {steps}")
    return steps[-1] if step is None else step


def _read_params(
    store: CheckpointStore, step: int, base: Pretrained, parameter_dtype: str
) -> Params:
    """The parameters alone: the optimizer's state, twice their size, stays on disk."""
    _, shapes, axes = state.abstract(base.settings, "float32", "none", parameter_dtype)
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    wanted = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        placement,
    )
    return store.restore_part(step, "params", wanted)
