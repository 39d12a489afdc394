"""LoRA (arXiv:2106.09685): a change of low rank beside a weight, which itself stays as it is.

In the tree of parameters the parts of an adapter lie beside their weight, those of layers stacked
as it is:

    q_DNH                                  the weight, [*E, *in, *out]
    q_DNH_lora  a   [*E, *in, R]           drawn at random; what the weight contracts
                b   [*E, R, *out]          zeros: an adapter changes nothing at first
                scale     []               never trained: alpha / R, or alpha / sqrt(R)
                magnitude [*out]           of DoRA (arXiv:2402.09353) alone

R: rank. A rank that a layer of a stack doesn't use is zeros in both factors, which get no gradient.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxsft.model.quantised import Quantised

SUFFIX = "_lora"  # of an adapter's name, behind that of its weight
A, B, SCALE, MAGNITUDE = "a", "b", "scale", "magnitude"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """A weight with its adapter, in the place of the weight."""

    weight: jax.Array | Quantised
    a: jax.Array
    b: jax.Array
    scale: jax.Array
    magnitude: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    @property
    def num_inputs(self) -> int:
        """Dimensions of the weight that a product sums over: its first ones."""
        return self.weight.ndim - self.b.ndim + 1

    def change(self) -> jax.Array:
        """scale x A B, float32, in the weight's shape; of a weight without experts."""
        a, b = (part.astype(jnp.float32) for part in (self.a, self.b))
        return self.scale * jnp.tensordot(a, b, axes=1)

    def ratio(self) -> jax.Array | None:
        """What DoRA multiplies each output by, float32 [*out]; None: no DoRA.

        The magnitude over the norm of the changed weight. The norm is a constant to the gradient,
        as in section 4.3.
        """
        if self.magnitude is None:
            return None
        changed = self.weight.astype(jnp.float32) + self.change()
        return self.magnitude / jax.lax.stop_gradient(norms(changed, self.num_inputs))

    def whole(self) -> jax.Array:
        """The changed weight, float32."""
        changed = self.weight.astype(jnp.float32) + self.change()
        ratio = self.ratio()
        return changed if ratio is None else changed * behind(ratio, changed.ndim)


def norms(weight_x: jax.Array | Quantised, num_inputs: int) -> jax.Array:
    """Of each output's weights, float32 [*out]."""
    squares = jnp.square(weight_x.astype(jnp.float32))
    return jnp.sqrt(jnp.sum(squares, axis=tuple(range(num_inputs))))


def behind(array_x: jax.Array, ndim: int) -> jax.Array:
    """The array with dimensions of 1 in front, of `ndim` in all."""
    return jnp.expand_dims(array_x, tuple(range(ndim - array_x.ndim)))


def together(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with each adapter in the place of its weight, as the model takes them."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        if name.endswith(SUFFIX):
            continue
        adapter = params.get(name + SUFFIX)
        if adapter is not None:
            found[name] = Adapted(value, **adapter)
        else:
            found[name] = together(value) if isinstance(value, Mapping) else value
    return found


class MergedStack:
    """A stack of weights, changed or quantised, each computed when it is asked for; seen as an
    array."""

    def __init__(self, held: Adapted | Quantised):
        self._held = held
        self.shape, self.dtype, self.ndim = held.shape, jnp.dtype("float32"), len(held.shape)

    def __getitem__(self, index: int | tuple[int, ...]) -> jax.Array:
        """The weight of a layer, or of an expert of a layer, float32."""
        index = index if isinstance(index, tuple) else (index,)
        held = self._held
        if isinstance(held, Quantised):
            return held[index].astype(jnp.float32)
        parts = {
            field.name: getattr(held, field.name)[index]
            for field in dataclasses.fields(held)
            if field.name != SCALE and getattr(held, field.name) is not None
        }
        return whole_stack(Adapted(scale=held.scale[index[: held.scale.ndim]], **parts))


def merged(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with each adapter's change in its weight, float32, and no adapters.

    Weights without an adapter stay as they are, in their dtype; stacks that have one, or are
    quantised, are `MergedStack`.
    """

    def plain(tree: dict[str, Any]) -> dict[str, Any]:
        return {
            name: plain(value) if isinstance(value, dict) else _seen_whole(value)
            for name, value in tree.items()
        }

    return plain(together(params))


def _seen_whole(held: Any) -> Any:
    if isinstance(held, Quantised):
        return MergedStack(held)
    if not isinstance(held, Adapted):
        return held
    return MergedStack(held) if held.scale.ndim else whole_stack(held)


@jax.jit
def whole_stack(held: Adapted) -> jax.Array:
    """The weights of all layers and experts of a stack, changed."""
    num_stacked = held.a.ndim + held.b.ndim - held.weight.ndim - 2
    stack = held.a.shape[:num_stacked]
    scale = held.scale.reshape(*held.scale.shape, *(1 for _ in stack[held.scale.ndim :]))
    held = dataclasses.replace(held, scale=jnp.broadcast_to(scale, stack))
    whole = Adapted.whole
    for _ in stack:
        whole = jax.vmap(whole)
    return whole(held)


def apart(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with each adapter beside its weight: what `together` took."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Adapted):
            parts = dict(vars(value))
            found[name] = parts.pop("weight")
            found[name + SUFFIX] = {part: v for part, v in parts.items() if v is not None}
        else:
            found[name] = apart(value) if isinstance(value, Mapping) else value
    return found
