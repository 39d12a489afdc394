"""Matrices in 8 bits a number: a code, and what it is a share of.

    number    sign * (code / levels) ** power * the smaller one of its row's and column's largest

A row or a column is no block of fixed length, as a mesh may split both sides of a matrix: its
largest number is found by each device in its own part and then among them, exactly, so the codes
are the same on any mesh and lie where the numbers lay; only these largest ones travel.

The power puts most codes near 0, where most numbers are. Between two codes chance decides, so that
the mean is right: to the nearest one, a mean that moves by a thousandth a step would never leave
its code. The dice are a function of step and place: a resumed run throws the same.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.training.optimizers.sides import Sides


class Coded(NamedTuple):
    codes: jax.Array  # int8 where numbers have signs, uint8 where they don't
    rows: jax.Array  # the largest number of each, along the outs of the matrix
    columns: jax.Array


class Code(NamedTuple):
    """How numbers become codes."""

    power: int
    signed: bool
    salt: int  # of its dice

    @property
    def levels(self) -> int:
        return 127 if self.signed else 255

    @property
    def dtype(self) -> str:
        return "int8" if self.signed else "uint8"


def zeros(param_x: jax.Array, of: Sides, code: Code) -> Coded:
    wide_x = jnp.zeros_like(param_x, jnp.float32)
    return Coded(jnp.zeros_like(param_x, code.dtype), *_largest(wide_x, of))


def encoded(number_x: jax.Array, of: Sides, code: Code, step: jax.Array) -> Coded:
    """The codes of float32 numbers; none but 0 itself becomes 0 where numbers have no sign."""
    size = jnp.abs(number_x)
    rows, columns = _largest(size, of)
    scale = jnp.minimum(rows, columns)
    share = jnp.where(scale > 0, size / jnp.where(scale > 0, scale, 1.0), 0.0)
    root = share
    for _ in range(code.power.bit_length() - 1):  # a power of 2
        root = jnp.sqrt(root)
    low = jnp.minimum(jnp.floor(code.levels * root), code.levels - 1)
    below, above = ((one / code.levels) ** code.power for one in (low, low + 1))
    level = low + (_dice(number_x.shape, step, code.salt) * (above - below) < share - below)
    if not code.signed:
        level = jnp.maximum(level, size > 0)
    return Coded((jnp.sign(number_x) * level).astype(code.dtype), rows, columns)


def decoded(coded: Coded, code: Code) -> jax.Array:
    level = coded.codes.astype(jnp.float32)
    share = (jnp.abs(level) / code.levels) ** code.power
    return jnp.sign(level) * share * jnp.minimum(coded.rows, coded.columns)


def _largest(size_x: jax.Array, of: Sides) -> tuple[jax.Array, jax.Array]:
    rows, columns = (jnp.max(size_x, dims, keepdims=True) for dims in (of.outs, of.ins))
    return rows, columns


def _dice(shape: tuple[int, ...], step: jax.Array, salt: int) -> jax.Array:
    """Numbers in [0, 1), each of its place and the step alone."""
    index = jnp.zeros(shape, jnp.uint32)
    for dim, size in enumerate(shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, dim)
        index = index * np.uint32(size & 0xFFFFFFFF) + along
    turn = _mixed(step.astype(jnp.uint32) * np.uint32(2) + np.uint32(salt))
    return (_mixed(index ^ turn) >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def _mixed(bits_x: jax.Array) -> jax.Array:
    """The last stage of MurmurHash3, fmix32: each bit moves half of the result's."""
    bits_x = (bits_x ^ (bits_x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits_x = (bits_x ^ (bits_x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return bits_x ^ (bits_x >> np.uint32(16))
