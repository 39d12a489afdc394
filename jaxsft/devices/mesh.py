"""The device mesh, and the one table that maps logical axes to mesh axes.

Logical axes are declared with each parameter; nothing else in the code names a mesh axis.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsft import config
from jaxsft.errors import MeshError

AXES = ("data", "fsdp", "context", "expert", "tensor")

# Logical axis -> mesh axes. A logical axis that is not sharded maps to none.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp", "expert"),
    "sequence": ("context",),
    "layer": (),
    "embed": ("fsdp", "context", "expert"),  # parameters lie on all devices that share a replica
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "mlp": ("tensor",),
    "expert": ("expert",),
    "expert_embed": ("fsdp", "context"),
    "routing": (),  # a router's output, one number per expert: each device routes its own tokens
    "vocab": ("tensor",),
    "norm": (),
    "rank": (),  # of an adapter: a few numbers for each token
    "activation_embed": (),
}
# Where a mesh axis does not divide these, each device of it has them whole: few heads of keys and
# values serve many of queries.
WHOLE_IF_UNEVEN = frozenset({"kv_heads"})


def make_mesh(sizes: config.Mesh, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices, with the open (None) axes filled.

    Devices of several slices are ordered so that `data` alone crosses the network between them,
    where `data` is a multiple of their number.

    Raises:
        MeshError: the sizes don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    slices = num_slices(devices)
    wanted = fill(sizes, len(devices), slices)
    shape = tuple(wanted[axis] for axis in AXES)
    # An axis may take a part of a side of the slice, such as 2 of 4x4 chips.
    if slices == 1 or wanted["data"] % slices:
        ordered = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        inside = (wanted["data"] // slices, *shape[1:])
        across = (slices, *(1 for _ in shape[1:]))
        ordered = mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    return Mesh(ordered, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def num_slices(devices: Sequence[Any]) -> int:
    """Slices of a TPU, or boxes of GPUs, that talk over a network."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def fill(sizes: config.Mesh, num_devices: int, slices: int = 1) -> dict[str, int]:
    """The size of each axis, open ones filled.

    Raises:
        MeshError: the sizes don't multiply to the number of devices.
    """
    wanted = dataclasses.asdict(sizes)
    if wanted["data"] is None and wanted["fsdp"] is None:
        wanted["data"] = slices
    known = math.prod(size for size in wanted.values() if size is not None)
    open_axes = [axis for axis, size in wanted.items() if size is None]
    if num_devices % known or (not open_axes and known != num_devices):
        shown = ", ".join(f"{axis}={size}" for axis, size in wanted.items())
        raise MeshError(
            f"config.mesh: {shown} needs {'a multiple of ' if open_axes else ''}{known} devices,"
            f" here are {num_devices}; config.mesh.fsdp=None takes what the others leave"
        )
    return wanted | {axis: num_devices // known for axis in open_axes}


def single_device_mesh() -> Mesh:
    """The mesh of one local device, for programs that only look at a model."""
    return make_mesh(config.Mesh(), jax.local_devices()[:1])


def spec(*logical_axes: str | None) -> PartitionSpec:
    """The PartitionSpec of an array whose dimensions carry these logical axes."""
    return PartitionSpec(*(_over(axis) or None for axis in logical_axes))


def _over(logical: str | None) -> tuple[str, ...]:
    return () if logical is None else RULES[logical]


def sharding(mesh: Mesh, *logical_axes: str | None) -> NamedSharding:
    return NamedSharding(mesh, spec(*logical_axes))


def fitted(
    shape: tuple[int, ...], logical_axes: tuple[str | None, ...], sizes: Mapping[str, int]
) -> tuple[str | None, ...]:
    """The logical axes without those that may stay whole and don't split evenly."""
    return tuple(
        None if axis in WHOLE_IF_UNEVEN and size % parts(axis, sizes) else axis
        for size, axis in zip(shape, logical_axes, strict=True)
    )


def parts(logical: str | None, sizes: Mapping[str, int]) -> int:
    """Into how many parts a mesh of these sizes splits a logical axis."""
    return math.prod(sizes[axis] for axis in _over(logical))


def constrain(array: jax.Array, *logical_axes: str | None) -> jax.Array:
    """The array, laid out over the mesh in use (`jax.set_mesh`); itself without one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return array
    axes = fitted(array.shape, logical_axes, mesh.shape)
    return jax.lax.with_sharding_constraint(array, spec(*axes))


def is_split(logical_axis: str) -> bool:
    """Whether the mesh in use has several devices along a logical axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and parts(logical_axis, mesh.shape) > 1


def check_divisible(
    name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], sizes: Mapping[str, int]
) -> None:
    """Refuses a parameter that the axes of a mesh can't split evenly.

    Raises:
        MeshError: naming the parameter, the dimension and the mesh axes.
    """
    for size, axis in zip(shape, fitted(shape, axes, sizes), strict=True):
        count = parts(axis, sizes)
        if size % count:
            over = " x ".join(f"{one}={sizes[one]}" for one in _over(axis) if sizes[one] > 1)
            fitting = next(n for n in range(count, 0, -1) if size % n == 0)
            padding = f", or config.model.pad_vocab_to={count}" if axis == "vocab" else ""
            raise MeshError(
                f"config.mesh.{over}: does not divide the {size} of axis {axis!r} of {name}"
                f" {shape}; at most {fitting} would{padding}"
            )


def describe(mesh: Mesh) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
