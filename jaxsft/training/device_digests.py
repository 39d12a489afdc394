"""What each device of a mesh holds of arrays, as a number: devices that should hold the same are
compared by it.

P: device, in the mesh's order; L: leaf.
"""

import collections
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsft.devices import digest
from jaxsft.devices import mesh as mesh_lib


def digests_of(mesh: Mesh, placement: Any) -> Callable[[Any], jax.Array]:
    """A program that gives uint32 [P, L] of a tree, the same on all processes.

    One bit that differs in what a device holds of a leaf always changes that device's number.

    Args:
        placement: a NamedSharding over the mesh for each leaf.
    """
    specs = [sharding.spec for sharding in jax.tree.leaves(placement)]

    def on_a_device(leaves: list[jax.Array]) -> jax.Array:
        return jnp.stack([digest.of_array(leaf)[0] for leaf in leaves])[None]

    spread = jax.shard_map(
        on_a_device,
        mesh=mesh,
        in_specs=(specs,),
        out_specs=PartitionSpec(mesh.axis_names),
        check_vma=False,
    )
    return jax.jit(
        lambda tree: spread(jax.tree.leaves(tree)), out_shardings=mesh_lib.sharding(mesh)
    )


def holders(sharding: NamedSharding, shape: tuple[int, ...]) -> list[list[int]]:
    """Which devices, by their places in the mesh, hold the same part of an array."""
    found: dict[Hashable, list[int]] = collections.defaultdict(list)
    parts, mesh = sharding.devices_indices_map(shape), sharding.mesh
    assert isinstance(mesh, Mesh)
    for place, device in enumerate(mesh.devices.flat):
        index = parts[device]
        assert index is not None
        found[tuple(one.indices(size) for one, size in zip(index, shape, strict=True))].append(
            place
        )
    return list(found.values())


def part_of(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> Hashable:
    """Which part of an array of this shape the slices of its dimensions mean."""
    assert index is not None
    return tuple(one.indices(size) for one, size in zip(index, shape, strict=True))


def odd_ones_out(digests_P: np.ndarray, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of each group whose devices differ, those that most of it contradict; all of it where no
    number has a majority."""
    found = []
    for group in groups:
        counts = collections.Counter(int(digests_P[place]) for place in group)
        usual, count = counts.most_common(1)[0]
        if len(counts) > 1:
            clear = 2 * count > len(group)
            found.append([p for p in group if not clear or int(digests_P[p]) != usual])
    return found
