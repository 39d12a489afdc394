"""Which back end attention runs on: the first that can do what is asked, and does it right."""

from collections.abc import Sequence
from typing import Any

from jaxsft.errors import ConfigError
from jaxsft.kernels.attention import cudnn, selftest, splash, triton
from jaxsft.kernels.attention.attend import BACK_ENDS
from jaxsft.kernels.attention.form import Use
from jaxsft.kernels.attention.selftest import ALLOWED

# The fastest first. `blocked` is plain JAX and runs anywhere.
_CANDIDATES = {"tpu": ("splash", "blocked"), "gpu": ("cudnn", "triton", "blocked")}
# All others are plain JAX, which nothing is refused to.
_REFUSALS = {"splash": splash.refusal, "cudnn": cudnn.refusal, "triton": triton.refusal}
_SHORT_ROW = 128  # measured on CPU: no slower up to here, and it compiles in a third of the time


def choose(name: str, use: Use, device: Any) -> tuple[str, str]:
    """The back end that `name` stands for, and why.

    Args:
        device: one of the run's, on which a kernel is tested; None: there is none, as in a plan.

    Raises:
        ConfigError: a back end that is not there, can't do what is asked, or does it wrong.
    """
    if name == "auto":
        return _first_that_works(use, device)
    if name not in BACK_ENDS:
        raise ConfigError(f"config.model.attention={name}: expected auto or {', '.join(BACK_ENDS)}")
    refused, tested = _verdict(name, use, device)
    if refused is not None:
        raise ConfigError(f"config.model.attention={name}: {refused}")
    return name, f"asked for by config.model.attention{tested}"


def _first_that_works(use: Use, device: Any) -> tuple[str, str]:
    if use.platform == "cpu" and use.length <= _SHORT_ROW:
        return "xla", f"rows of at most {_SHORT_ROW} tokens"
    reasons = []
    for name in _candidates(use):
        refused, tested = _verdict(name, use, device)
        if refused is None:
            reasons.append(f"the fastest that works on {use.platform}{tested}")
            return name, "; ".join(reasons)
        reasons.append(f"not {name}: {refused}")
    raise AssertionError("`blocked` is refused nowhere")


def _candidates(use: Use) -> Sequence[str]:
    names = _CANDIDATES.get(use.platform, ("blocked",))
    if "cudnn" in names and not cudnn.is_fastest(use):
        return ("triton", *(name for name in names if name != "triton"))
    return names


def _verdict(name: str, use: Use, device: Any) -> tuple[str | None, str]:
    """Why a back end is refused, or None; and what to say of its test."""
    if name not in _REFUSALS:
        return None, ""
    refused = refusal(name, use)
    if refused is not None:
        return refused, ""
    if device is None:
        return None, ", not tested: no such device here"
    try:
        found = selftest.difference(BACK_ENDS[name], use, device)
    except Exception as error:  # each compiler and library has its own kinds
        lines = str(error).strip().splitlines() or [""]
        return f"its test ended with {type(error).__name__}: {lines[0][:200]}", ""
    if not found <= ALLOWED:  # NaN is refused too
        return f"its test differs from the reference by {found:.2g}, more than {ALLOWED:g}", ""
    return None, f", tested: differs from the reference by {found:.1g}"


def refusal(name: str, use: Use) -> str | None:
    """Why a back end can't do what is asked, or None, as far as is known before it runs."""
    if name not in _REFUSALS:
        return None
    home = next(platform for platform, names in _CANDIDATES.items() if name in names)
    if use.platform != home:
        return f"runs on {home.upper()} only, and this is {use.platform}"
    return _REFUSALS[name](use)
