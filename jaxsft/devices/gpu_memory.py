"""The share of each GPU's memory that a process takes; jax by itself takes three quarters."""

import os

from jaxsft.errors import ConfigError

SETTING = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_SETTINGS = (SETTING, "XLA_CLIENT_MEM_FRACTION")  # jax refuses both at once
_PREALLOCATE, _ALLOCATOR = "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR"
_POOLS = ("", "default", "bfc")  # allocators that keep to a share
_OURS = 0.92  # the rest is for CUDA, its libraries and NCCL: 6 GiB of an H100
_OF_JAX = 0.75


def set_share() -> str | None:
    """Sets the share unless the user has set how memory is taken; what is to be said then.

    Before jax opens its devices, which is when it reads that.
    """
    if any(os.environ.get(name) for name in (*_SETTINGS, _PREALLOCATE, _ALLOCATOR)):
        return None
    os.environ[SETTING] = str(_OURS)
    return f"uses up to {_OURS:.0%} of each GPU: {SETTING} sets another share"


def share() -> float:
    """What a program that is started with this environment may use of a GPU's memory.

    Raises:
        ConfigError: it is set to something else than a share.
    """
    for name in _SETTINGS:
        if text := os.environ.get(name):
            return _positive(name, text)
    if os.environ.get(_ALLOCATOR, "") not in _POOLS:
        return 1.0
    return _OF_JAX if os.environ.get(_PREALLOCATE) or os.environ.get(_ALLOCATOR) else _OURS


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ConfigError(f"{name}={text}: expected a share of a GPU's memory, such as {_OURS}")
    return value
