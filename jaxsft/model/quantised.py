"""Weights that are kept in 8 or 4 bits: blocks of whole numbers, each block with a scale.

    codes   [*E, *I, C, *O]      int8; of nf4 uint8, two numbers of a block in each
    scales  [*E, *I, N, *O]      of int8 bfloat16; of nf4 uint8 steps between the least and the most
    least, step  [*E, *O]        float32, of nf4 alone: its scales are least + step x scales

E: layers and experts of a stack; I: inputs of a product but for the last; C: codes of that one,
N: its blocks, one after the other; O: outputs. A block lies along what a product sums over, as in
QLoRA (arXiv:2305.14314), from which nf4 and the rounding of scales ("double quantisation") are;
scales are rounded for each output here, not for 256 blocks, so that any mesh can split a weight.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.devices import mesh

Kind = Literal["int8", "nf4"]
KINDS: tuple[Kind, ...] = ("int8", "nf4")
_IN_A_CODE = {"int8": 1, "nf4": 2}
BLOCK = 64  # numbers that share a scale, or the largest divisor of it that divides the input
# Quantiles of a normal distribution, evenly spaced on either side of 0, the largest 1: appendix E.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_NUMBERS = np.asarray(NF4, np.float32)
_BETWEEN = (_NUMBERS[1:] + _NUMBERS[:-1]) / np.float32(2)
# Gathered before a product anyway: better in few bits than afterwards.
_GATHERED = frozenset({"embed", "expert_embed"})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantised:
    """A weight in the place of its array; its parts may be shapes, axes or places as well."""

    codes: Any
    scales: Any
    least: Any = None
    step: Any = None
    # Dimensions of I, the last one counted, and of O.
    num_inputs: int = dataclasses.field(default=1, metadata={"static": True})
    num_outputs: int = dataclasses.field(default=1, metadata={"static": True})
    # Logical axes of the codes of one layer; None: of no mesh.
    axes: tuple[str | None, ...] | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def kind(self) -> Kind:
        return "int8" if self.least is None else "nf4"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        at, sizes = self._blocks_at, self.codes.shape
        return (*sizes[:at], sizes[at] * _IN_A_CODE[self.kind], *sizes[at + 1 :])

    @property
    def _blocks_at(self) -> int:
        """The dimension C of the codes, N of the scales."""
        return self.ndim - self.num_outputs - 1

    @property
    def ndim(self) -> int:
        return len(self.codes.shape)

    @property
    def dtype(self) -> Any:
        """What it stands for."""
        return jnp.dtype("float32")

    def __getitem__(self, index: int | tuple[int, ...]) -> "Quantised":
        """The weight of a layer, or of an expert of a layer."""
        return jax.tree.map(lambda part: part[index], self)

    def of(self, weight_x: Any) -> "Quantised":
        """Another weight of numpy or jax, quantised in the same way."""
        made = quantised(weight_x, self.kind, self.num_inputs, self.num_outputs)
        return dataclasses.replace(made, axes=self.axes)

    def astype(self, dtype: jax.typing.DTypeLike) -> jax.Array:
        """The weight's numbers, rounded from float32."""
        at, scales = self._blocks_at, self._scales()
        codes = _in_blocks(self._gathered(), scales.shape[at], at)
        if self.kind == "nf4":
            # The halves of a block lie in the low and the high bits of the same bytes.
            codes = jnp.concatenate([codes & 15, codes >> 4], axis=at + 1)
            numbers = _looked_up(codes)
        else:
            numbers = codes.astype(jnp.float32)
        scales = jnp.expand_dims(scales, at + 1)
        return (numbers * scales).astype(dtype).reshape(self.shape)

    def _scales(self) -> jax.Array:
        """Float32 [*E, *I, N, *O]."""
        scales = self.scales.astype(jnp.float32)
        if self.kind == "int8":
            return scales
        behind = tuple(range(self.least.ndim - self.num_outputs, scales.ndim - self.num_outputs))
        least, step = (jnp.expand_dims(part, behind) for part in (self.least, self.step))
        return least + step * scales

    def _gathered(self) -> jax.Array:
        """The codes, on each device as they are multiplied there."""
        codes, sizes = self.codes, jax.sharding.get_abstract_mesh().shape
        if self.axes is None or codes.ndim != len(self.axes) or not sizes:
            return codes
        kept = [
            axis if axis not in _GATHERED and size % mesh.parts(axis, sizes) == 0 else None
            for axis, size in zip(self.axes, codes.shape, strict=True)
        ]
        return mesh.constrain(codes, *kept)


def _looked_up(codes_x: jax.Array) -> jax.Array:
    """The numbers of nf4, float32: by choices between pairs, which all chips do side by side."""
    values: list[Any] = [jnp.float32(value) for value in NF4]
    for bit in range(4):
        is_set = (codes_x >> bit) & 1 == 1
        values = [
            jnp.where(is_set, high, low)
            for low, high in zip(values[::2], values[1::2], strict=True)
        ]
    return values[0]


def quantised(weight_x: Any, kind: Kind, num_inputs: int, num_outputs: int) -> Quantised:
    """The nearest numbers that a kind of quantisation has.

    Args:
        weight_x: [*E, *I, N x block, *O], of numpy or jax, and so are the parts.
        num_inputs: dimensions that a product sums over.
    """
    xp = weight_x.__array_namespace__()
    ndim, block = weight_x.ndim, block_of(weight_x.shape[-num_outputs - 1])
    at = ndim - num_outputs - 1
    sizes = weight_x.shape
    blocks = _in_blocks(weight_x.astype(np.float32), sizes[at] // block, at)
    largest = xp.max(xp.abs(blocks), axis=at + 1)
    if kind == "int8":
        scales = (largest / np.float32(127)).astype(jnp.bfloat16)
        ratio = blocks / _divisor(xp, scales, at + 1)
        codes = xp.clip(xp.rint(ratio), -127, 127).astype(np.int8).reshape(sizes)
        return Quantised(codes, scales, num_inputs=num_inputs, num_outputs=num_outputs)
    inputs = tuple(range(at + 1 - num_inputs, at + 1))
    least = xp.min(largest, axis=inputs, keepdims=True)
    step = (xp.max(largest, axis=inputs, keepdims=True) - least) / np.float32(255)
    steps = xp.rint((largest - least) / xp.where(step > 0, step, np.float32(1)))
    scales = steps.astype(np.uint8)
    # By the scales as they will be read, so that their rounding is made good.
    ratio = blocks / _divisor(xp, least + step * scales.astype(np.float32), at + 1)
    codes = xp.zeros(ratio.shape, np.uint8)
    for middle in _BETWEEN.tolist():
        codes += ratio > middle
    low, high = xp.split(codes, 2, axis=at + 1)
    least, step = (xp.squeeze(part, axis=inputs) for part in (least, step))
    codes = (low | (high << 4)).reshape(*sizes[:at], -1, *sizes[at + 1 :])
    return Quantised(codes, scales, least, step, num_inputs, num_outputs)


def _in_blocks(array_x: Any, num_blocks: int, axis: int) -> Any:
    """The array with a dimension cut in two: blocks, and what is in each."""
    sizes = array_x.shape
    return array_x.reshape(*sizes[:axis], num_blocks, -1, *sizes[axis + 1 :])


def _divisor(xp: Any, scales_x: Any, axis: int) -> Any:
    """Scales to divide by; a block of zeros alone has none."""
    wide = scales_x.astype(np.float32)
    return xp.expand_dims(xp.where(wide > 0, wide, np.float32(1)), axis)


def block_of(size: int) -> int:
    """Numbers of a block along an input of this size."""
    return math.gcd(size, BLOCK)


def declared(
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    kind: Kind,
    num_stacked: int,
    num_inputs: int,
) -> tuple[Quantised, Quantised]:
    """The shapes and the logical axes of a quantised weight's parts.

    Args:
        shape: of the weight.
        axes: logical ones, of all its dimensions.
        num_stacked: dimensions of layers and experts, the first ones.
    """
    num_outputs = len(shape) - num_stacked - num_inputs
    shapes = jax.eval_shape(
        lambda weight: quantised(weight, kind, num_inputs, num_outputs),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )
    in_step = axes[axes.count("layer") :]
    shapes = dataclasses.replace(shapes, axes=in_step)
    outputs = axes[len(shape) - num_outputs :]
    of_output = (*axes[:num_stacked], *outputs) if kind == "nf4" else None
    parts = (axes, axes, of_output, of_output)
    return shapes, Quantised(*parts, num_inputs, num_outputs, in_step)


def placed(shapes: Quantised, axes: Quantised, sizes: Any) -> Quantised:
    """The logical axes as a mesh of these sizes can split the parts: scales that it can't split
    evenly, as their blocks are few, lie whole on each device."""
    scales = tuple(
        axis if size % mesh.parts(axis, sizes) == 0 else None
        for axis, size in zip(axes.scales, shapes.scales.shape, strict=True)
    )
    return dataclasses.replace(axes, scales=scales)


def is_weight(leaf: Any) -> bool:
    """For walks over trees of parameters that see a quantised weight as one."""
    return isinstance(leaf, Quantised)
