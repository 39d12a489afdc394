"""The parameters that have a row for each token: the embedding, and the head where it isn't tied.

V: vocabulary, D: embed_dim.
"""

from collections.abc import Callable

import jax

from jaxsft.model.state import Params

EMBEDDING, HEAD = "embedding_VD", "head_DV"


def tables(params: Params) -> list[str]:
    return [name for name in (EMBEDDING, HEAD) if name in params]


def changed_rows(
    leaf: str, table: jax.Array, change: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """What `change` makes of the table as [V, D], in the layout and where the table lay."""

    def changed(table: jax.Array) -> jax.Array:
        return by_token(leaf, change(by_token(leaf, table)))

    return jax.jit(changed, out_shardings=table.sharding)(table)


def by_token(leaf: str, table: jax.Array) -> jax.Array:
    """[V, D] of a table as it lies, or the other way round."""
    return table.T if leaf == HEAD else table
