"""A gradient in a dtype of its own, from where it is formed.

JAX gives a gradient its parameter's dtype. Where layers are scanned that makes a stack of all
layers' gradients, twice as large as one of bfloat16 which is all that the products give.
"""

import functools
from typing import Any

import jax


def with_slots(params: Any, slots: Any) -> Any:
    """The parameters, whose gradients go to the slots instead, in the slots' dtype.

    Args:
        slots: of the parameters' shapes; differentiate by them. Their values are never read.
    """
    return jax.tree.map(lambda param, slot: _with_slot(param, slot, slot.dtype), params, slots)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_slot(param: jax.Array, slot: jax.Array, dtype: Any) -> jax.Array:
    del slot, dtype
    return param


_with_slot.defvjp(
    lambda param, slot, dtype: (param, None),
    lambda dtype, _, gradient: (None, gradient.astype(dtype)),
)
