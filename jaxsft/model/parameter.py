"""Parameters: each declared in one line, and each weight multiplied with in one function.

Placement, initialisation, checkpoints and conversion all read the line. What a weight is beside
its numbers (adapters on top of it, a quantised form) is known to `product` and `whole` alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.devices.mesh import constrain
from jaxsft.kernels.experts.gated_mlps import LowRank
from jaxsft.model import adapter
from jaxsft.model.adapter import Adapted
from jaxsft.model.quantised import Quantised


def matrix(
    rngs: nnx.Rngs,
    stddev: float,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    inputs: int = 1,
) -> nnx.Param[jax.Array]:
    """A float32 parameter drawn from a normal distribution.

    Args:
        inputs: dimensions that a product sums over: the first ones, experts aside.
    """
    value = stddev * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, axes=axes, inputs=inputs)


def scale(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[jax.Array]:
    """Float32 ones; the name of a scale has `scale` in it, which spares it from weight decay."""
    return nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)


def bias(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[jax.Array]:
    """Float32 zeros; the name of a bias has `bias` in it, which spares it from weight decay."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)


def product(
    equation: str,
    x: jax.Array,
    weight: nnx.Param[jax.Array],
    *,
    seen_as: tuple[int, ...] | None = None,
    **others: Any,
) -> jax.Array:
    """The einsum of activations and a weight, which is cast to their dtype.

    Args:
        seen_as: the shape in which `equation` names the weight, outputs alone seen otherwise; None:
            its own.
        others: of jnp.einsum.
    """
    held: Any = weight.get_value()
    shape = tuple(held.shape if seen_as is None else seen_as)
    if isinstance(held, Adapted):
        return _adapted_product(equation, x, held, shape, others)
    return _product(equation, x, held, shape, others)


def _product(
    equation: str, x: jax.Array, held: Any, shape: tuple[int, ...], others: dict[str, Any]
) -> jax.Array:
    """`product` with an array, or a quantised weight in its place."""

    def times(x: jax.Array, held: Any) -> jax.Array:
        return jnp.einsum(equation, x, held.astype(x.dtype).reshape(shape), **others)

    if isinstance(held, Quantised):
        # Else the backward pass would keep each layer's numbers beside its codes.
        times = jax.checkpoint(times, prevent_cse=False)
    return times(x, held)


def _adapted_product(
    equation: str, x: jax.Array, held: Adapted, shape: tuple[int, ...], others: dict[str, Any]
) -> jax.Array:
    """`product`, the change beside it: of low rank, so little is computed for it.

    Args:
        shape: in which `equation` names the weight.
    """
    first, second = _in_two(equation, held.num_inputs)
    if second is None:  # the weight is used the other way round: a tied head
        return jnp.einsum(equation, x, held.whole().astype(x.dtype).reshape(shape), **others)
    outputs = shape[held.num_inputs :]
    out = _product(equation, x, held.weight, shape, others)
    low = jnp.einsum(first, x, held.a.astype(x.dtype), **others)
    low = (held.scale * low).astype(x.dtype)
    b = held.b.reshape(-1, *outputs) if len(outputs) > 1 else held.b.reshape(held.b.shape[0], -1)
    out += jnp.einsum(second, low, b.astype(x.dtype), **others)
    ratio = held.ratio()
    if ratio is None:
        return out
    return (out * adapter.behind(ratio.reshape(outputs), out.ndim)).astype(out.dtype)


def _in_two(equation: str, num_inputs: int) -> tuple[str, str | None]:
    """The equations of a product with A, and of its result with B.

    "BTNH,NHD->BTD", 2 inputs:   BTNH,NHr->BTr   and   BTr,rD->BTD

    Returns:
        None for the second where `equation` doesn't sum over the weight's first dimensions.
    """
    left, out = equation.split("->")
    x, weight = left.split(",")
    inputs, outputs = weight[:num_inputs], weight[num_inputs:]
    if set(inputs) & set(out) or not out.endswith(outputs):
        return "", None
    kept = out.removesuffix(outputs)
    return f"{x},{inputs}r->{kept}r", f"{kept}r,r{outputs}->{out}"


def whole(weight: nnx.Param[jax.Array], dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """The weight as an array, for kernels that multiply with it themselves."""
    held: Any = weight.get_value()
    array: Any = held.whole() if isinstance(held, Adapted) else held
    return array if dtype is None else array.astype(dtype)


def rows(
    table_VD: nnx.Param[jax.Array], index_x: jax.Array, dtype: jax.typing.DTypeLike
) -> jax.Array:
    """Rows of a table, [*index, D] in `dtype`."""
    held: Any = table_VD.get_value()
    if not isinstance(held, Adapted):
        return _gathered(held.astype(dtype))[index_x]
    found = _gathered(held.weight.astype(dtype))[index_x]
    low = held.scale * _gathered(held.a)[index_x]
    return found + (low @ held.b).astype(dtype)


def _gathered(table_VD: jax.Array) -> jax.Array:
    """Whole on each device: a look-up in parts of a table would move every row anyway."""
    return constrain(table_VD, None, None)


def of_experts(
    weight_EKF: nnx.Param[jax.Array], dtype: jax.typing.DTypeLike
) -> tuple[jax.Array, LowRank | None]:
    """The weight of a mixture's experts, and its adapter, for kernels of grouped products."""
    held: Any = weight_EKF.get_value()
    if not isinstance(held, Adapted):
        return held.astype(dtype), None
    low = LowRank(held.a.astype(dtype), (held.scale * held.b).astype(dtype))
    return held.weight.astype(dtype), low
