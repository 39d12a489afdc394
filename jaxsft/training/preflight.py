"""What can be refused before a device is there: by the config, the model's settings, the data."""

import math

import jax

from jaxsft.config import Config
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack.epochs import Epochs, num_steps
from jaxsft.data.pack.reweight import source_factors
from jaxsft.data.report.data_report import DataWarning
from jaxsft.data.report.method_hints import of_capacity, of_rate
from jaxsft.model import settings, state
from jaxsft.training import mesh_fit, parameters
from jaxsft.training.router_loss import router_losses
from jaxsft.training.schedule import make_schedule


def check_config(config: Config, model: settings.DecoderSettings) -> None:
    """Refuses what no data and no number of devices could mend.

    Raises:
        ConfigError: mesh, batch, model, loss and schedule don't fit each other.
    """
    mesh_fit.check_given(config, model)
    source_factors(config.loss, config.data.train)
    router_losses(config.loss, model)
    if config.train.steps is not None:
        make_schedule(config.optim, config.train.steps)


def method_hints(
    config: Config, num_trained: int, epochs: Epochs, train: Cache
) -> list[DataWarning]:
    """What is far from what the method of the run usually takes.

    Args:
        num_trained: parameters.
    """
    pretrained, is_lora = config.model.weights == "pretrained", config.lora is not None
    found = [*of_rate(config.optim.peak_lr, is_lora=is_lora, is_pretrained=pretrained)]
    if is_lora and pretrained:
        found += of_capacity(num_trained, int(epochs.sums_of_steps(train.supervised).sum()))
    return found


def num_trained(config: Config, base: Pretrained) -> int:
    """Parameters that a run trains, where its program is not made."""
    declared = parameters.declare(config, base.settings, new_ids=base.new_ids)
    trained, _ = state.split(declared.shapes, declared.frozen)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained))


def steps_of_run(config: Config, epochs: Epochs) -> int:
    """The steps that the config makes of its prepared data.

    Raises:
        ConfigError: the schedule does not fit them.
    """
    steps = num_steps(config.train, epochs)
    make_schedule(config.optim, steps)
    return steps
