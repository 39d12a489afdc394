"""Sums of a loss over tokens: they add up over chunks, micro-batches and devices.

B: batch row, M: segment of a row, S: source of a mixture.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over target tokens, float32; a mean is one of them over `weight`."""

    nll: jax.Array  # weight x negative log-likelihood, nats
    weight: jax.Array
    correct: jax.Array  # weight of the targets that have the greatest logit
    entropy: jax.Array  # weight x entropy of the predicted distribution, nats
    supervised_tokens: jax.Array  # targets of weight > 0
    source_nll_S: jax.Array | None = None  # nll and weight of each source of a mixture
    source_weight_S: jax.Array | None = None
    objective: jax.Array | None = None  # what is minimised, and its weight; None: nll and weight
    objective_weight: jax.Array | None = None
    kl: jax.Array | None = None  # weight x KL(teacher || student), nats; None: no teacher

    @property
    def minimised(self) -> jax.Array:
        """The sum whose gradient is taken."""
        return self.nll if self.objective is None else self.objective

    @property
    def minimised_weight(self) -> jax.Array:
        """By which it is divided."""
        return self.weight if self.objective_weight is None else self.objective_weight

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)

    @staticmethod
    def zero(num_sources: int | None = None, plain: bool = True, taught: bool = False) -> "Sums":
        zero = jnp.float32(0)
        by_source = None if num_sources is None else jnp.zeros(num_sources, jnp.float32)
        own = None if plain else zero
        kl = zero if taught else None
        return Sums(zero, zero, zero, zero, zero, by_source, by_source, own, own, kl)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SegmentSums:
    """Sums over each segment's targets, float32 [B, M]: column m is a row's segment m + 1.

    They add up to the whole sums of the same batch; those of different batches are of different
    segments and are never added. 0 where a row has no such segment, NaN throughout a row that has
    more than M.
    """

    nll_BM: jax.Array
    weight_BM: jax.Array
