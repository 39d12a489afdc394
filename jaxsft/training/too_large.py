"""Steps that need more memory than there is: how the compiler and the devices say so."""

import jax

from jaxsft.config import Config
from jaxsft.devices.mesh import fill
from jaxsft.errors import ConfigError
from jaxsft.training.mesh_fit import batch_multiple


class TooLarge(ConfigError):
    """A step that needs more memory than a device has."""


def said_by_compiler(error: BaseException) -> TooLarge | None:
    """The error where the compiler itself finds that the step can't fit, as the TPU's does."""
    if "RESOURCE_EXHAUSTED" not in str(error) or "HBM" not in str(error).upper():
        return None
    return TooLarge(f"the training step is too large. {_first_line(error)}")


def ran_out(error: BaseException, config: Config) -> TooLarge | None:
    """The error as one that the user can mend, where memory ran out while the run went on."""
    if isinstance(error, MemoryError):
        said = "this machine has no memory left"
        less = ["fewer config.data.workers"]
    elif isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        said = f"a device has no memory left: {_first_line(error)}"
        less = _less(config)
    else:
        return None
    ways = ", ".join(less)
    return TooLarge(f"{said}; less is needed with {ways}, or when nothing else runs there")


def _less(config: Config) -> list[str]:
    """What of this config can be made to need less of a device."""
    train, evaluates = config.train, bool(config.data.eval)
    sizes = fill(config.mesh, jax.device_count())
    splits = batch_multiple(sizes, train.microbatches) < train.batch_size
    possible = {
        "more config.train.microbatches": splits,
        "config.model.remat=full": config.model.remat != "full",
        "a smaller config.data.sequence_length": True,
        "a smaller config.eval.batch_size": evaluates and config.eval.batch_size != 1,
        "fewer config.eval.prompts": config.eval.prompts > 0,
    }
    return [words for words, holds in possible.items() if holds]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
