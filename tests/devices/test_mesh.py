"""Meshes: the open axis is filled, and what doesn't fit is refused with the figures."""

import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.errors import ConfigError


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (config.Mesh(), (1, 8, 1, 1, 1)),
        (config.Mesh(fsdp=4), (2, 4, 1, 1, 1)),
        (config.Mesh(data=2, context=2), (2, 2, 2, 1, 1)),
        (config.Mesh(expert=4, tensor=2), (1, 1, 1, 4, 2)),
        (config.Mesh(tensor=2), (1, 4, 1, 1, 2)),
        (config.Mesh(data=None, fsdp=2), (4, 2, 1, 1, 1)),
        (config.Mesh(data=2, fsdp=2, tensor=2), (2, 2, 1, 1, 2)),
    ],
    ids=str,
)
def test_the_open_axis_takes_what_the_others_leave(sizes, expected):
    assert tuple(mesh.make_mesh(sizes).shape.values()) == expected


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        (config.Mesh(fsdp=3), "fsdp=3.* needs a multiple of 3 devices, here are 8"),
        (config.Mesh(tensor=3), "tensor=3 needs a multiple of 3 devices, here are 8"),
        (config.Mesh(data=1, fsdp=4), "needs 4 devices, here are 8"),
    ],
    ids=str,
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes, match):
    with pytest.raises(ConfigError, match=match):
        mesh.make_mesh(sizes)


def test_a_dimension_that_does_not_split_is_refused_by_name():
    over = mesh.make_mesh(config.Mesh(fsdp=4, tensor=2))
    mesh.check_divisible("q", (32, 4, 8), ("embed", "heads", "head_dim"), over.shape)
    with pytest.raises(
        ConfigError, match=r"tensor=2: does not divide the 3 of axis 'heads' of q .* at most 1"
    ):
        mesh.check_divisible("q", (32, 3, 8), ("embed", "heads", "head_dim"), over.shape)


def test_several_axes_that_split_one_dimension_are_named_together():
    over = mesh.make_mesh(config.Mesh(fsdp=2, context=2, expert=2))
    with pytest.raises(ConfigError, match=r"fsdp=2 x context=2 x expert=2: does not .* the 36 "):
        mesh.check_divisible("up", (36, 64), ("embed", "mlp"), over.shape)


def test_few_heads_of_keys_stay_whole_on_each_device():
    sizes = mesh.make_mesh(config.Mesh(fsdp=2, tensor=4)).shape
    axes = ("embed", "kv_heads", "head_dim")
    assert mesh.fitted((32, 2, 8), axes, sizes) == ("embed", None, "head_dim")
    assert mesh.fitted((32, 4, 8), axes, sizes) == axes
    mesh.check_divisible("k", (32, 2, 8), axes, sizes)
