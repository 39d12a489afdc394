"""Control tokens that a template writes but whose embedding was never trained.

A base model often has rows for tokens that it never saw. Where they are zeros, gradients there are
enormous and clipping leaves nothing for the rest (NVIDIA-NeMo/Automodel#3136); where they are
copies of each other, the model can't tell the tokens apart.

V: vocabulary, D: embed_dim, C: control tokens.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.devices import mesh as mesh_lib
from jaxsft.model import vocabulary
from jaxsft.model.state import Params

_SMALL = 0.01  # of the median norm of all rows; trained rows lie within a few times of it
_NOISE = 0.1  # of the spread of the trained rows: tells repaired rows apart


def dead_rows(params: Params, ids: Sequence[int], leaf: str) -> dict[int, str]:
    """What is wrong with the row of each of these tokens; nothing is said of healthy ones.

    Args:
        leaf: which table: one of vocabulary.tables.
    """
    if not ids:
        return {}
    mesh = getattr(params[leaf].sharding, "mesh", None)
    everywhere = None if mesh is None else mesh_lib.sharding(mesh)
    wanted = jnp.asarray(ids)

    def look(table):
        rows_VD = vocabulary.by_token(leaf, table)
        norms_V = jnp.linalg.norm(rows_VD, axis=-1)
        return jnp.median(norms_V), norms_V[wanted], rows_VD[wanted]

    found = jax.jit(look, out_shardings=everywhere)(params[leaf])
    median, norms_C, rows_CD = (np.asarray(array) for array in found)
    wrong = {}
    for place, token in enumerate(ids):
        twins = [ids[i] for i in range(place) if np.array_equal(rows_CD[i], rows_CD[place])]
        if norms_C[place] < _SMALL * median:  # in few words, so that many tokens share a reason
            norm = f"below {_SMALL * median:.2g}" if norms_C[place] else "0"
            wrong[token] = f"its norm is {norm}, that of most rows {median:.2g}"
        elif twins:
            wrong[token] = f"it is equal to that of token {twins[0]}"
    return wrong


def by_reason(dead: dict[int, str]) -> list[tuple[str, str]]:
    """The tokens that share a reason, named together, and that reason; each reason once."""
    tokens: dict[str, list[int]] = {}
    for token, reason in dead.items():
        tokens.setdefault(reason, []).append(token)
    return [
        (f"token {own[0]}" if len(own) == 1 else f"{len(own)} tokens {own}, each", reason)
        for reason, own in tokens.items()
    ]


def repaired(params: Params, leaf: str, ids: Sequence[int], seed: int) -> Params:
    """The parameters with the rows of these tokens at the mean of the trained ones, with a little
    noise of their own."""

    def repair(rows_VD: jax.Array) -> jax.Array:
        norms_V = jnp.linalg.norm(rows_VD, axis=-1)
        trained_V1 = (norms_V >= _SMALL * jnp.median(norms_V))[:, None]
        mean_D = jnp.mean(rows_VD, axis=0, where=trained_V1)
        spread_D = jnp.std(rows_VD, axis=0, where=trained_V1)
        key = jax.random.fold_in(jax.random.key(seed), leaf == vocabulary.HEAD)
        noise_CD = jax.random.normal(key, (len(ids), rows_VD.shape[1]))
        new_CD = mean_D[None] + _NOISE * spread_D[None] * noise_CD
        return rows_VD.at[jnp.asarray(ids)].set(new_CD)

    return params | {leaf: vocabulary.changed_rows(leaf, params[leaf], repair)}
