"""Over which mesh axis a compiled program's devices talk, and how long that takes at the least."""

import dataclasses
import itertools

import numpy as np
from jax.sharding import Mesh

from jaxsft.plan.cost import Collective
from jaxsft.plan.topology import Topology

Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Communication:
    kind: str
    axis: str  # of the mesh; several joined by x
    bytes: float  # that a chip sends in a step
    network_bytes: float  # of these, that leave its slice or box at the least
    count: float  # operations in a step
    seconds: float | None  # at the peak of the links, or of the network where that takes longer


def of(one: Collective, mesh: Mesh, topology: Topology) -> Communication:
    share = 1.0 if one.across_slices else 0.0
    if topology.num_slices > 1 and not one.across_slices:
        share = network_share(one.kind, one.groups, _units(mesh))
    outside, seconds = share * one.bytes, None
    if (chip := topology.chip) is not None:
        seconds = max(
            0.0 if one.across_slices else one.bytes / (topology.links * chip.link_bandwidth),
            outside / chip.network_bandwidth,
        )
    return Communication(
        kind=one.kind,
        axis="data" if one.across_slices else axis_of(one.groups, mesh),
        bytes=one.bytes,
        network_bytes=outside,
        count=one.count,
        seconds=seconds,
    )


def _units(mesh: Mesh) -> list[tuple[int, int]]:
    """For each device, the slice of a TPU or the box of GPUs that it is in."""
    return [
        (getattr(one, "slice_index", 0), 0 if one.platform == "tpu" else one.process_index)
        for one in mesh.devices.flat
    ]


def network_share(kind: str, groups: Groups, units: list[tuple[int, int]]) -> float:
    """The part of what a device of a ring sends that must leave its slice or box.

    The devices of a box work together: each gets its own part of what the box lacks from outside,
    and passes it on inside. Of n devices in k boxes, each sends n - 1 parts, k - 1 of them outside;
    parts that are for one receiver each (all-to-all) are n - n / k outside.
    """
    shares = []
    for group in groups or (tuple(range(len(units))),):
        size, boxes = len(group), len({units[number] for number in group})
        outside = size - size / boxes if kind == "all-to-all" else boxes - 1
        shares.append(outside / max(size - 1, 1))
    return max(shares)


def axis_of(groups: Groups, mesh: Mesh) -> str:
    """The mesh axes over which these groups of devices lie."""
    wanted = {frozenset(group) for group in groups}
    if not wanted:
        wanted = {frozenset(range(mesh.size))}
    numbers = np.arange(mesh.size).reshape(mesh.devices.shape)
    used = [axis for axis, size in mesh.shape.items() if size > 1]
    for count in range(1, len(used) + 1):
        for axes in itertools.combinations(used, count):
            places = [mesh.axis_names.index(axis) for axis in axes]
            moved = np.moveaxis(numbers, places, range(-count, 0))
            size = int(np.prod([mesh.shape[axis] for axis in axes]))
            if {frozenset(row) for row in moved.reshape(-1, size).tolist()} == wanted:
                return " x ".join(axes)
    inside = [axis for axis in used if _neighbours(wanted, numbers, mesh.axis_names.index(axis))]
    return inside[0] if inside else "devices"


def _neighbours(groups: set[frozenset[int]], numbers: np.ndarray, place: int) -> bool:
    """Whether each group, such as the two ends of a permutation, differs in one axis only."""
    coordinates = {int(n): c for c, n in np.ndenumerate(numbers)}
    for group in groups:
        columns = list(zip(*(coordinates[number] for number in group), strict=True))
        if any(len(set(column)) > 1 for at, column in enumerate(columns) if at != place):
            return False
    return True
