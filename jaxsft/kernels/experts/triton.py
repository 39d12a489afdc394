"""The back end `triton`: grouped products for GPUs, by kernels that skip unused rows.

M: rows, E: expert, whose rows are a group, K: contracted dimension, F: the other one.
"""

import functools
from typing import NamedTuple

import jax

from jaxsft.kernels.attention.form import first_limit
from jaxsft.kernels.experts import triton_kernels, triton_tiles
from jaxsft.kernels.experts.form import Use
from jaxsft.kernels.experts.triton_kernels import Call
from jaxsft.kernels.experts.triton_tiling import TABLE, UNIT, Tilings


def refusal(use: Use) -> str | None:
    """Why a run's experts are not for this back end, or None."""
    if use.platform != "gpu":
        return f"runs on GPU only, and this is {use.platform}"
    sides = {"embed_dim": use.embed_dim, "expert_mlp_dim on a device": use.mlp_dim}
    return first_limit(
        [
            # Twice the shared memory, and products that are not done by tensor cores.
            (f"dtype {use.dtype}", use.dtype == "float32"),
            *(
                (f"{name}={size}, not a multiple of {UNIT}", size % UNIT > 0)
                for name, size in sides.items()
            ),
        ]
    )


class _How(NamedTuple):
    tilings: Tilings
    interpret: bool


def dot(
    x_MK: jax.Array,
    w_EKF: jax.Array,
    sizes_E: jax.Array,
    interpret: bool = False,
    tilings: Tilings = TABLE,
) -> jax.Array:
    """`grouped_dot`, rows after the last group among it: they are not read and give 0.

    Args:
        interpret: runs the kernels without a GPU, slowly.
        tilings: others than those of the table, to measure them.
    """
    return _dot(_How(tilings, interpret), x_MK, w_EKF, sizes_E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dot(how: _How, x_MK, w_EKF, sizes_E):
    call = Call(how.tilings.rows, how.interpret)
    return triton_kernels.rows(call, _tiles(call, x_MK, sizes_E), x_MK, w_EKF)


def _backward(how: _How, residuals, d_out_MF):
    x_MK, w_EKF, sizes_E = residuals
    call = Call(how.tilings.rows_gradient, how.interpret, contract=2)
    d_x_MK = triton_kernels.rows(call, _tiles(call, x_MK, sizes_E), d_out_MF, w_EKF)
    call = Call(how.tilings.weights, how.interpret)
    groups_E2 = triton_tiles.of_groups(sizes_E)
    return d_x_MK, triton_kernels.weights(call, w_EKF.dtype, groups_E2, x_MK, d_out_MF), None


_dot.defvjp(
    lambda how, x_MK, w_EKF, sizes_E: (_dot(how, x_MK, w_EKF, sizes_E), (x_MK, w_EKF, sizes_E)),
    _backward,
)


def _tiles(call: Call, x_MK, sizes_E) -> jax.Array:
    return triton_tiles.of_rows(sizes_E, x_MK.shape[0], call.tiling.height)
