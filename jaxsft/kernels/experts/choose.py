"""Which back end multiplies the experts' matrices."""

from typing import Any

from jaxsft.errors import ConfigError
from jaxsft.kernels.experts import selftest, triton
from jaxsft.kernels.experts.form import Use

# tiled: a loop over tiles of rows of one expert. ragged: jax.lax.ragged_dot, which is a kernel on
# TPU and num_experts times the work elsewhere; the gradient of its matrices would be that on TPU
# too, and is a kernel of jax's own there. triton: kernels for GPUs. dense: every expert on every
# token, the reference. A layer of Qwen3-30B-A3B on an H100, 8192 tokens, forward and backward, ms:
# triton 5.1, dense 53, tiled 617, ragged more than that.
BACK_ENDS = ("tiled", "ragged", "triton", "dense")


def choose(name: str, use: Use, device: Any) -> tuple[str, str]:
    """The back end that `name` stands for, and why.

    Args:
        device: one of the run's, on which a kernel is tested; None: there is none, as in a plan.

    Raises:
        ConfigError: a back end that is not there, can't do what is asked, or does it wrong.
    """
    if name == "auto":
        return fastest(use, device)
    if name not in BACK_ENDS:
        raise ConfigError(f"config.model.experts={name}: expected auto, {' or '.join(BACK_ENDS)}")
    refused, tested = (None, "") if name != "triton" else _verdict(use, device)
    if refused is not None:
        raise ConfigError(f"config.model.experts={name}: {refused}")
    return name, f"asked for by config.model.experts{tested}"


def fastest(use: Use, device: Any) -> tuple[str, str]:
    """The back end that is taken for a run's experts, and why.

    Args:
        device: as in `choose`.
    """
    if use.platform == "tpu":
        return "ragged", "ragged_dot is a kernel on TPU"
    otherwise = "ragged_dot would run every expert on every row here"
    if use.platform != "gpu":
        return "tiled", otherwise
    refused, tested = _verdict(use, device)
    if refused is not None:
        return "tiled", f"not triton: {refused}; {otherwise}"
    return "triton", f"the fastest that works on gpu{tested}"


def _verdict(use: Use, device: Any) -> tuple[str | None, str]:
    """Why the kernels for GPUs are refused, or None; and what to say of their test."""
    refused = triton.refusal(use)
    if refused is not None:
        return refused, ""
    if device is None:
        return None, ", not tested: no such device here"
    try:
        found = selftest.difference(triton.dot, use, device)
    except Exception as error:  # the compiler has its own kinds
        lines = str(error).strip().splitlines() or [""]
        return f"its test ended with {type(error).__name__}: {lines[0][:200]}", ""
    if not found <= selftest.ALLOWED:  # NaN is refused too
        return f"its test differs from tiles by {found:.2g}, more than {selftest.ALLOWED:g}", ""
    return None, f", tested: differs from tiles by {found:.1g}"
