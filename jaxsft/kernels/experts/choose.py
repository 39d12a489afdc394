"""Which back end multiplies the experts' matrices."""

from jaxsft.errors import ConfigError

# tiled: a loop over tiles of rows of one expert. ragged: jax.lax.ragged_dot, which is a kernel on
# TPU and num_experts times the work elsewhere; the gradient of its matrices would be that on TPU
# too, and is a kernel of jax's own there. dense: every expert on every token, the reference.
BACK_ENDS = ("tiled", "ragged", "dense")


def choose(name: str, platform: str) -> tuple[str, str]:
    """The back end that `name` stands for on a device's platform, and why.

    Raises:
        ConfigError: a back end that is not there.
    """
    if name == "auto":
        if platform == "tpu":
            return "ragged", "ragged_dot is a kernel on TPU"
        return "tiled", "ragged_dot would run every expert on every row here"
    if name not in BACK_ENDS:
        raise ConfigError(f"back_end={name}: expected auto, {' or '.join(BACK_ENDS)}")
    return name, "asked for"
