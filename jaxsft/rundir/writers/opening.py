"""The writers that config.log.writers names."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from jaxsft.config import Config, to_dict
from jaxsft.errors import ConfigError
from jaxsft.files import run_names
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.workdir import Workdir
from jaxsft.rundir.writers import wandb
from jaxsft.rundir.writers.beside import Beside, Place
from jaxsft.rundir.writers.history import History
from jaxsft.rundir.writers.tensorboard import TensorBoard
from jaxsft.rundir.writers.wandb import WeightsAndBiases
from jaxsft.terminal.redact import redacted_values

_PACKAGES = {TensorBoard.name: "tensorboardX", WeightsAndBiases.name: "wandb"}


def check(names: Sequence[str]) -> None:
    """Refuses at the start what could not be written to later.

    Raises:
        ConfigError: a package is not installed; or W&B has no key.
    """
    for name in names:
        package = _PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"config.log.writers: {name} needs {package}; pip install 'jaxsft[{name}]'"
            )
    if WeightsAndBiases.name in names:
        wandb.check()


def opened(
    config: Config,
    workdir: Workdir,
    history: History,
    samples: JsonLines,
    say: Callable[[str, str], None],
) -> tuple[Beside, ...]:
    """Those of the first process; nothing is written before they are told to resume."""
    values = redacted_values(to_dict(config))
    places = [_place(name, workdir, values) for name in config.log.writers]
    return tuple(Beside(place, history, samples, say) for place in places)


def _place(name: str, workdir: Workdir, config: dict[str, Any]) -> Place:
    if name == TensorBoard.name:
        directory = workdir.files / run_names.TENSORBOARD
        return TensorBoard(directory, workdir.shown(run_names.TENSORBOARD), config)
    called = redacted_values(workdir.files.absolute().name)
    return WeightsAndBiases(workdir.files, called, config)
