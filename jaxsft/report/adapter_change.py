"""What each adapter of a run adds to its weight: proof that it acts, or that it does not.

L: layers of a stack, R: rank.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft.model.adapter import Adapted
from jaxsft.model.state import Params
from jaxsft.report.weight_change import LeafChange


@dataclasses.dataclass(frozen=True)
class AdapterChange:
    """Of one weight, or of that weight in each layer of a stack."""

    name: str = ""  # the weight's, without the layers: "attention.q_DNH"
    rank: int = 0
    layers: Sequence[int] = ()  # empty: of no layer
    shares: Sequence[float] = ()  # norm of scale x A B over that of the weight, of each layer

    @property
    def still(self) -> list[int]:
        """Places in `shares` of those that add nothing."""
        return [place for place, share in enumerate(self.shares) if share == 0]


def measured(together: Params, leaves: Mapping[str, LeafChange]) -> list[AdapterChange]:
    """
    Args:
        together: parameters with each adapter in the place of its weight.
        leaves: what is known of each weight, by its dotted path.
    """
    flat = nnx.traversals.flatten_mapping(together)
    held = {".".join(path): one for path, one in flat.items() if isinstance(one, Adapted)}
    if not held:
        return []
    place, everywhere = next(iter(held.values())).a.sharding, None
    if isinstance(place, jax.sharding.NamedSharding):  # each process sees all
        everywhere = jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec())

    def norms(held: dict[str, Adapted]) -> dict[str, jax.Array]:
        return {path: _norms(one) for path, one in held.items()}

    found = jax.device_get(jax.jit(norms, out_shardings=everywhere)(held))
    return [_of_leaf(leaves[path], held[path], np.atleast_1d(found[path])) for path in held]


def _of_leaf(leaf: LeafChange, held: Adapted, norms_L: np.ndarray) -> AdapterChange:
    pairs = zip(norms_L.tolist(), leaf.norms, strict=True)
    shares = [change / (norm or 1.0) for change, norm in pairs]  # of zeros: what is added itself
    return AdapterChange(leaf.name, held.a.shape[-1], leaf.layers, shares)


def _norms(held: Adapted) -> jax.Array:
    """Of scale x A B, for each layer or of the whole: without A B, which is as large as the weight.

    The square of its norm is the sum over A^T A times B B^T, of R x R each.
    """
    a, b = (part.astype(jnp.float32) for part in held.factors())
    stack, rank = a.shape[: held.num_stacked], a.shape[-1]
    a, b = a.reshape(*stack, -1, rank), b.reshape(*stack, rank, -1)
    sizes = [jnp.maximum(jnp.abs(part).max(), jnp.finfo(jnp.float32).tiny) for part in (a, b)]
    a, b = a / sizes[0], b / sizes[1]  # squares of small ones would be 0
    with jax.default_matmul_precision("highest"):
        products = jnp.einsum("...ir,...is->...rs", a, a) * jnp.einsum("...ro,...so->...rs", b, b)
    squares = jnp.maximum(jnp.sum(products, axis=(-1, -2)), 0.0)
    norms = jnp.sqrt(squares) * sizes[0] * sizes[1]
    norms = norms * held.scale.reshape(*held.scale.shape, *(1 for _ in stack[held.scale.ndim :]))
    experts = tuple(range(held.scale.ndim, norms.ndim))
    return jnp.sqrt(jnp.sum(norms * norms, axis=experts)) if experts else norms
