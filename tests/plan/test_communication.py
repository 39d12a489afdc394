"""Who talks to whom in a compiled step, and what of it crosses a network."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxsft.devices.chips import CHIPS
from jaxsft.plan import communication
from jaxsft.plan.cost import Collective
from jaxsft.plan.topology import Topology


def test_an_axis_is_found_for_every_kind_of_group():
    mesh = jax.make_mesh((2, 2, 2), ("a", "b", "c"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    numbers = np.arange(8).reshape(2, 2, 2)
    for name, groups in {
        "c": numbers.reshape(-1, 2),
        "a": numbers.transpose(1, 2, 0).reshape(-1, 2),
        "a x c": numbers.transpose(1, 0, 2).reshape(-1, 4),
        "a x b x c": numbers.reshape(1, 8),
    }.items():
        assert communication.axis_of(tuple(map(tuple, groups.tolist())), mesh) == name
    assert communication.axis_of(((0, 2), (2, 0)), mesh) == "b"  # a permutation
    assert communication.axis_of((), mesh) == "a x b x c"


def mesh_of(platform, per_host, hosts, slices=1):
    devices = [
        SimpleNamespace(
            platform=platform,
            process_index=i // per_host,
            slice_index=i * slices // (per_host * hosts),
        )
        for i in range(per_host * hosts)
    ]
    return SimpleNamespace(
        devices=np.array(devices), size=len(devices), shape={"a": len(devices)}, axis_names=("a",)
    )


def seconds(mesh, kind, groups, slices):
    chip = CHIPS["NVIDIA H100"]
    where = Topology("test", list(mesh.devices), chip, slices)
    made = communication.of(Collective(kind, groups, False, 16e9, 1.0), mesh, where)
    return made, chip


@pytest.mark.parametrize(("platform", "share"), [("tpu", 0.0), ("gpu", 1.0)])
def test_hosts_of_a_slice_are_linked_and_boxes_of_gpus_are_not(platform, share):
    units = communication._units(mesh_of(platform, 2, 2))
    assert communication.network_share("all-gather", ((0, 1), (2, 3)), units) == 0
    assert communication.network_share("all-gather", ((0, 2), (1, 3)), units) == share
    assert communication.network_share("all-gather", (), units) == share / 3
    units = communication._units(mesh_of(platform, 2, 2, slices=2))
    assert communication.network_share("all-gather", ((0, 2), (1, 3)), units) == 1


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("all-gather", 1 / 15),  # a box lacks 8 parts of 16, and each of its 8 GPUs fetches one
        ("all-reduce", 1 / 15),
        ("all-to-all", 8 / 15),  # nothing that one GPU gets serves another one
    ],
)
def test_the_gpus_of_a_box_share_what_comes_from_outside(kind, share):
    made, chip = seconds(mesh_of("gpu", 8, 2), kind, (), 2)
    assert made.network_bytes == pytest.approx(share * 16e9)
    expected = max(16e9 / chip.link_bandwidth, share * 16e9 / chip.network_bandwidth)
    assert made.seconds == pytest.approx(expected)
    pairs = tuple((i, i + 8) for i in range(8))
    made, chip = seconds(mesh_of("gpu", 8, 2), "collective-permute", pairs, 2)
    assert made.seconds == 16e9 / chip.network_bandwidth
