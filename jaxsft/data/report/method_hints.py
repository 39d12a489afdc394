"""What of a config is far from what its method usually takes; a hint, for there are reasons to."""

from collections.abc import Iterator

from jaxsft.data.report.data_report import DataWarning

# The rates that published recipes of either method meet at.
MOST_FOR_ALL_WEIGHTS = 5e-5
LEAST_FOR_ADAPTERS = 5e-5
# What a parameter can hold (arXiv:2404.05405), and what a target token holds at a usual loss of 0.7
# nats. Where data hold more, adapters fall behind ("LoRA Without Regret", Schulman et al., 2025).
BITS_OF_A_PARAMETER, BITS_OF_A_TARGET = 2.0, 1.0


def of_rate(peak_lr: float, *, is_lora: bool, is_pretrained: bool) -> Iterator[DataWarning]:
    """Of the highest learning rate of a run; random weights take any.

    Args:
        is_lora: adapters are trained, and not the weights themselves.
    """
    if not is_pretrained:
        return
    if is_lora and peak_lr < LEAST_FOR_ADAPTERS:
        yield DataWarning(
            f"config.optim.peak_lr={peak_lr:g} is low for adapters",
            "They begin at 0 and usually take 1e-4 to 3e-4, about ten times the rate of training"
            " all weights: with less they hardly move.",
        )
    if not is_lora and peak_lr > MOST_FOR_ALL_WEIGHTS:
        yield DataWarning(
            f"config.optim.peak_lr={peak_lr:g} is high for training all weights",
            "1e-5 to 2e-5 is usual, and models below a billion parameters bear more: with too much"
            " a model forgets what it could do. Compare the loss on other data before and after.",
        )


def of_capacity(num_trained: int, num_targets: int) -> Iterator[DataWarning]:
    """Of adapters that are too small to learn all of the data.

    Args:
        num_trained: parameters.
        num_targets: supervised tokens of an epoch.
    """
    holds, data = BITS_OF_A_PARAMETER * num_trained, BITS_OF_A_TARGET * num_targets
    if holds < data:
        yield DataWarning(
            f"{num_trained:,} parameters are few for {num_targets:,} supervised tokens",
            "By a rule of thumb a parameter holds 2 bits and a supervised token about 1: adapters"
            f" {data / holds:.2g} times as large would hold all of them. Raise config.lora.rank, or"
            " train all weights, if the loss stops falling early; a style or a format takes less.",
        )
