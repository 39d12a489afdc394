"""Which back end attention runs on."""

import dataclasses

from jaxsft.errors import ConfigError
from jaxsft.kernels import attention_splash
from jaxsft.kernels.attention import BACK_ENDS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """What a run asks of attention on each of its devices."""

    platform: str
    length: int  # of a row: keys
    query_length: int  # of a row's part on one device


def choose(name: str, use: Use) -> tuple[str, str]:
    """The back end that `name` stands for, and why.

    Raises:
        ConfigError: a back end that is not there, or that can't do what is asked.
    """
    if name == "auto":
        refused = _refusal("splash", use)
        return ("splash", "the kernel for TPU") if refused is None else ("xla", f"splash {refused}")
    if name not in BACK_ENDS:
        raise ConfigError(f"config.model.attention={name}: expected auto or {', '.join(BACK_ENDS)}")
    refused = _refusal(name, use)
    if refused is not None:
        raise ConfigError(f"config.model.attention={name}: {refused}")
    return name, "asked for by config.model.attention"


def _refusal(name: str, use: Use) -> str | None:
    """Why a back end can't run; or None."""
    if name != "splash":
        return None
    if use.platform != "tpu":
        return f"runs on TPU only, and this is {use.platform}"
    return attention_splash.refusal(use.length, use.query_length)
