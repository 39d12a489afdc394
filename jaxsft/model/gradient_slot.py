"""A gradient in a dtype of its own, from where it is formed.

JAX gives a gradient its parameter's dtype. Where layers are scanned that makes a stack of all
layers' gradients, twice as large as one of bfloat16, which is all that the products give.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def with_slots(params: Any, slots: Any, in_loop: bool = False) -> Any:
    """The parameters, whose gradients go to the slots instead, in the slots' dtype.

    Args:
        slots: of the parameters' shapes; differentiate by them. Their values are never read. A
            parameter without one gets no gradient.
        in_loop: the parameters are slices of stacks that a loop runs over.
    """

    if isinstance(params, Mapping):
        return {name: with_slots(p, slots.get(name, {}), in_loop) for name, p in params.items()}
    # A quantised one has several arrays.
    param = jax.tree.map(_sliced_before_cast, params) if in_loop else params
    return param if isinstance(slots, Mapping) else _with_slot(param, slots, slots.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_slot(param: jax.Array, slot: jax.Array, dtype: Any) -> jax.Array:
    del slot, dtype
    return param


_with_slot.defvjp(
    lambda param, slot, dtype: (param, None),
    lambda dtype, _, gradient: (None, gradient.astype(dtype)),
)


def _sliced_before_cast(param: jax.Array) -> jax.Array:
    """The parameter, which has no gradient any more.

    A slice that is used in bfloat16 alone is cast before the loop by the TPU's compiler, with all
    others of its stack: a second copy of the parameters; and one that is bfloat16 is turned round
    there. It doesn't look through integers. That for GPUs casts while it slices, and would copy
    first what is to be cast then.
    """

    def as_integers(param: jax.Array) -> jax.Array:
        width = {2: jnp.uint16, 4: jnp.uint32}[param.dtype.itemsize]
        bits = jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(param, width))
        return jax.lax.bitcast_convert_type(bits, param.dtype)

    if param.dtype.itemsize not in (2, 4):
        return param
    return jax.lax.platform_dependent(param, cuda=lambda param: param, default=as_integers)
