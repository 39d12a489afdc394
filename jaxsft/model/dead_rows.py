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

from jaxsft import mesh as mesh_lib

_SMALL = 0.01  # of the median norm of all rows; trained rows lie within a few times of it


def dead_rows(embedding_VD: jax.Array, ids: Sequence[int]) -> dict[int, str]:
    """What is wrong with the embedding of each of these tokens; nothing is said of healthy ones."""
    if not ids:
        return {}
    mesh = getattr(embedding_VD.sharding, "mesh", None)
    everywhere = None if mesh is None else mesh_lib.sharding(mesh)
    wanted = jnp.asarray(ids)

    def look(embedding_VD):
        norms_V = jnp.linalg.norm(embedding_VD.astype(jnp.float32), axis=-1)
        return jnp.median(norms_V), norms_V[wanted], embedding_VD[wanted]

    found = jax.jit(look, out_shardings=everywhere)(embedding_VD)
    median, norms_C, rows_CD = (np.asarray(array) for array in found)
    wrong = {}
    for place, token in enumerate(ids):
        twins = [ids[i] for i in range(place) if np.array_equal(rows_CD[i], rows_CD[place])]
        if norms_C[place] < _SMALL * median:
            wrong[token] = f"its norm is {norms_C[place]:.2g}, that of most rows {median:.2g}"
        elif twins:
            wrong[token] = f"it is equal to that of token {twins[0]}"
    return wrong
