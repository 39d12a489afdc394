"""Loss weights of what is minimised: examples that count alike, sources that count by a factor.

The host does it, where an example is whole: on the devices it may lie on several of a row.

N: examples; S: sources.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsft.config import Loss, Source
from jaxsft.data.cache.prepare import source_names
from jaxsft.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Reweighting:
    """Of the examples of a cache."""

    example_mean: bool
    factors_S: np.ndarray | None  # float64; None: sources count as they are
    source_of_N: np.ndarray  # int

    @classmethod
    def of(
        cls, loss: Loss, sources: Sequence[Source], source_of_N: np.ndarray
    ) -> "Reweighting | None":
        """What the config asks for; None: weights stay as they are.

        Raises:
            ConfigError: as `source_factors` says.
        """
        if not reweights(loss):
            return None
        example_mean = loss.reduction == "example_mean"
        return cls(example_mean, source_factors(loss, sources), source_of_N)

    def weights(self, indices: np.ndarray, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The weights of these examples' tokens, float32.

            weights         0 1 1     9 1 3     0 0
            example means   0 .5 .5   . .25 .75 0 0    a first token is no target, whatever it says

        Args:
            indices: int, of the examples.
        """
        factors = np.ones(len(indices))
        if self.factors_S is not None:
            factors = self.factors_S[self.source_of_N[indices]]
        if self.example_mean:
            sums = np.array([one[1:].sum(dtype=np.float64) for one in weights])
            factors = factors / np.where(sums == 0, 1, sums)
        return [
            (factor * one).astype(np.float32) for factor, one in zip(factors, weights, strict=True)
        ]


def reweights(loss: Loss) -> bool:
    """Whether targets have weights of their own in what is minimised."""
    return loss.reduction == "example_mean" or bool(loss.source_weights)


def source_factors(loss: Loss, sources: Sequence[Source]) -> np.ndarray | None:
    """float64 [S], the factor of each source; None where none is given.

    Raises:
        ConfigError: a name that no source has, or a factor of the only source, which would cancel.
    """
    if not loss.source_weights:
        return None
    names = source_names(sources)
    for name, factor in loss.source_weights.items():
        here = f"config.loss.source_weights={{{name!r}: {factor}}}"
        if name not in names:
            raise ConfigError(
                f"{here}: no source of config.data.train has this name; there are"
                f" {', '.join(names)}"
            )
        if len(names) == 1:
            raise ConfigError(
                f"{here}: is the only source, so that its factor cancels out; set optim.peak_lr for"
                " longer steps"
            )
    return np.array([loss.source_weights.get(name, 1.0) for name in names])
