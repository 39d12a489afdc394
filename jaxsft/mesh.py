"""The device mesh, and the one table that maps logical axes to mesh axes.

Logical axes are declared with each parameter; nothing else in the code names a mesh axis.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsft import config
from jaxsft.errors import ConfigError

AXES = ("data", "fsdp", "context", "expert", "tensor")

# Logical axis -> mesh axes. A logical axis that is not sharded maps to None.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "sequence": "context",
    "layer": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "expert": "expert",
    "routing": None,  # a router's output, one number per expert: each device routes its own tokens
    "vocab": "tensor",
    "norm": None,
    "activation_embed": None,
}


def make_mesh(sizes: config.Mesh, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices, the open (None) axis filled with what the others leave.

    Raises:
        ConfigError: the sizes don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    wanted = dataclasses.asdict(sizes)
    open_axes = [axis for axis, size in wanted.items() if size is None]
    known = math.prod(size for size in wanted.values() if size is not None)
    if len(open_axes) > 1:
        raise ConfigError(
            f"config.mesh: {' and '.join(open_axes)} are None; leave at most one axis open"
        )
    if len(devices) % known or (not open_axes and known != len(devices)):
        shown = ", ".join(f"{axis}={size}" for axis, size in wanted.items())
        raise ConfigError(
            f"config.mesh: {shown} needs {'a multiple of ' if open_axes else ''}{known} devices,"
            f" here are {len(devices)}; config.mesh.fsdp=None takes what the others leave"
        )
    for axis in open_axes:
        wanted[axis] = len(devices) // known
    shape = tuple(wanted[axis] for axis in AXES)
    return jax.make_mesh(
        shape, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES), devices=devices
    )


def single_device_mesh() -> Mesh:
    """The mesh of one local device, for programs that only look at a model."""
    return make_mesh(config.Mesh(), jax.local_devices()[:1])


def spec(*logical_axes: str | None) -> PartitionSpec:
    """The PartitionSpec of an array whose dimensions carry these logical axes."""
    return PartitionSpec(*(None if axis is None else RULES[axis] for axis in logical_axes))


def sharding(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    return NamedSharding(mesh, spec(*logical_axes))


def constrain(array: jax.Array, *logical_axes: str | None) -> jax.Array:
    """The array, laid out over the mesh in use (`jax.set_mesh`); itself without one."""
    if jax.sharding.get_abstract_mesh().empty:
        return array
    return jax.lax.with_sharding_constraint(array, spec(*logical_axes))


def check_divisible(
    name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh
) -> None:
    """Refuses a parameter that a mesh axis can't split evenly.

    Raises:
        ConfigError: naming the parameter, the dimension and the mesh axis.
    """
    for size, axis, over in zip(shape, axes, spec(*axes), strict=True):
        names = [over] if isinstance(over, str) else list(over or ())
        parts = math.prod(mesh.shape[part] for part in names)
        if size % parts:
            fitting = [n for n in range(parts, 0, -1) if size % n == 0]
            padding = f", or config.model.pad_vocab_to={parts}" if axis == "vocab" else ""
            raise ConfigError(
                f"config.mesh.{names[0]}={parts}: does not divide the {size} of axis {axis!r} of"
                f" {name} {shape}; at most {fitting[0]} would{padding}"
            )


def describe(mesh: Mesh) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
