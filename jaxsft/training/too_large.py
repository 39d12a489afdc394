"""Steps that need more memory than there is: how the compiler and the devices say so."""

import contextlib
import re
from collections.abc import Iterator

import jax

from jaxsft.config import Config
from jaxsft.devices import gpu_memory
from jaxsft.devices.mesh import fill
from jaxsft.errors import ConfigError
from jaxsft.model.remat import OFFLOADED
from jaxsft.training.mesh_fit import batch_multiple

# XLA says RESOURCE_EXHAUSTED of a kernel, too, that wants more of a core than there is.
_OF_A_KERNEL = re.compile(r"shared memory|register", re.IGNORECASE)
# CUDA's and NCCL's, which take what jax's share leaves.
_BESIDE_THE_SHARE = re.compile(r"CUDA_ERROR_OUT_OF_MEMORY|Cuda failure 2\b")


class TooLarge(ConfigError):
    """A step that needs more memory than a device has."""


def said_by_compiler(error: BaseException) -> TooLarge | None:
    """The error where the compiler itself finds that the step can't fit.

    A TPU's adds up what it needs; a GPU's runs out of memory when it tries kernels on the device.
    """
    if not _exhausted(error) or not re.search("HBM|out of memory", str(error), re.IGNORECASE):
        return None
    return TooLarge(f"the training step is too large. {_first_line(error)}")


@contextlib.contextmanager
def explained(config: Config) -> Iterator[None]:
    """Inside, memory that runs out is an error that the user can mend.

    Args:
        config: with the way of the layers that was taken.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if (refusal := ran_out(error, config)) is None:
            raise
        raise refusal from error


def ran_out(error: BaseException, config: Config) -> TooLarge | None:
    """The error as one that the user can mend, where memory ran out while the run went on."""
    if isinstance(error, MemoryError):
        said = "this machine has no memory left"
        less = ["fewer config.data.workers"]
    elif not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    elif _BESIDE_THE_SHARE.search(str(error)):
        said = f"a GPU has no memory left beside the share that jax takes: {_first_line(error)}"
        less = [f"a smaller {gpu_memory.SETTING}"]
    elif _exhausted(error):
        said = f"a device has no memory left: {_first_line(error)}"
        less = _less(config)
    else:
        return None
    ways = ", ".join(less)
    return TooLarge(f"{said}; less is needed with {ways}, or when nothing else runs there")


def _exhausted(error: BaseException) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) and not _OF_A_KERNEL.search(_first_line(error))


def _less(config: Config) -> list[str]:
    """What of this config can be made to need less of a device."""
    train, evaluates = config.train, bool(config.data.eval)
    sizes = fill(config.mesh, jax.device_count())
    splits = batch_multiple(sizes, train.microbatches) < train.batch_size
    possible = {
        "more config.train.microbatches": splits,
        "config.model.remat=full": config.model.remat not in ("full", OFFLOADED),
        "config.model.unroll_layers=1": (config.model.unroll_layers or 1) > 1,
        "a smaller config.data.sequence_length": True,
        "a smaller config.eval.batch_size": evaluates and config.eval.batch_size != 1,
        "fewer config.eval.prompts": config.eval.prompts > 0,
    }
    return [words for words, holds in possible.items() if holds]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
