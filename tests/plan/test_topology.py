"""Slices and boxes that aren't there, described as they are."""

import importlib.util
import os
import re
import types

import pytest
from jax.experimental import topologies

from jaxsft.errors import ConfigError
from jaxsft.plan import topology

TORUS, MESH = (True, True, True), (False, False, False)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        # Three dimensions: whole cubes of 64 chips are tori. cloud.google.com/tpu/docs/v4 and v5p.
        *(
            (f"{kind}:{shape}", MESH)
            for kind in ("v4", "v5p", "v7x")
            for shape in ("2x2x1", "2x4x4")
        ),
        *(
            (f"{kind}:{shape}", TORUS)
            for kind in ("v4", "v5p", "v7x")
            for shape in ("4x4x4", "4x4x8")
        ),
        ("v5p:4x8x12", TORUS),
        # Two: a dimension of 16 closes; MaxText's table of slices says so for each of these.
        *((f"{kind}:{shape}", MESH) for kind in ("v5e", "v6e") for shape in ("2x2", "4x8", "8x8")),
        ("v5e:8x16", (False, True, False)),
        ("v6e:8x16", (False, True, False)),
        ("v5e:16x16", (True, True, False)),
        ("v6e:16x16", (True, True, False)),
    ],
)
def test_the_last_chip_is_linked_to_the_first_where_the_slice_is_a_torus(name, wrap):
    kind, shape = name.split(":")
    sizes = [int(size) for size in shape.split("x")]
    assert topology.SliceShape.of(sizes, topology._TPUS[kind].dimensions).wrap == wrap


@pytest.mark.parametrize(
    ("sizes", "host"), [((1, 1), (1, 1, 1)), ((2, 2), (2, 2, 1)), ((4, 4, 4), (2, 2, 1))]
)
def test_a_host_has_a_square_of_four_chips(sizes, host):
    assert topology.SliceShape.of(sizes, 3).host == host


@pytest.mark.parametrize(
    ("sizes", "dimensions", "links"),
    [
        ((1, 1), 2, 1 / 4),
        ((1, 1, 1), 3, 1 / 6),
        ((2, 2, 1), 3, 2 / 6),
        ((2, 4, 4), 3, 3 / 6),
        ((4, 4, 4), 3, 1),
        ((8, 16), 2, 3 / 4),
    ],
)
def test_links_count_that_lead_to_another_chip_of_the_slice(sizes, dimensions, links):
    assert topology.SliceShape.of(sizes, dimensions).links(sizes, dimensions) == links


def test_a_shape_of_too_many_sizes_is_refused():
    with pytest.raises(ConfigError, match="v5p:2x2x2x2: expected at most three sizes"):
        topology.open_topology("v5p:2x2x2x2")


PLUGINS = ["jax_cuda12_plugin", "jax_cuda13_plugin"]


@pytest.fixture
def plugins(monkeypatch):
    """The CUDA plugin that is found, none at first, and what was asked of it last."""
    found: list[str] = []
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: name in found or None if name in PLUGINS else find(name),
    )
    described = types.SimpleNamespace(devices=[object()])

    def get_topology_desc(**how):
        found[:] = [*found[:1], how["target_config"]]
        return described

    monkeypatch.setattr(topologies, "get_topology_desc", get_topology_desc)
    for name in ("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    return found


def test_a_plan_for_gpus_names_both_plugins_where_none_is_there(plugins):
    with pytest.raises(ConfigError, match=r"h200:1: .*cuda12_plugin or .*cuda13_plugin;.*gpu13\]"):
        topology.open_topology("h200:1")


@pytest.mark.parametrize("name", PLUGINS)
def test_either_plugin_compiles_for_gpus_without_a_driver(plugins, name):
    plugins.append(name)
    assert topology.open_topology("h200:1").num_devices == 1
    assert os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] == "1"


def test_a_plugin_that_jax_left_out_is_explained(plugins, monkeypatch):
    """As jax says it where the plugin's check failed, which it does once a process."""

    def left_out(**_):
        raise NotImplementedError("topology not implemented for cuda")

    plugins.append(PLUGINS[1])
    monkeypatch.setattr(topologies, "get_topology_desc", left_out)
    with pytest.raises(ConfigError, match="not implemented for cuda; .*CONSTRAINTS_CHECK=1 before"):
        topology.open_topology("h200:1")


def test_a_program_on_a_gpu_may_use_the_share_that_train_takes(plugins, monkeypatch):
    """jax gave 128.62 GiB of an H200's 139.81 with .92; a plan must not count with more."""
    plugins.append(PLUGINS[0])
    chip = topology.open_topology("h200:1").chip
    assert chip is not None and 128.4 * 2**30 < chip.memory_bytes < 128.62 * 2**30
    (size,) = re.findall(r"device_memory_size: (\d+)", plugins[1])
    assert 0.8 * int(size) == pytest.approx(chip.memory_bytes)  # that XLA makes a schedule for
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".46")
    half = topology.open_topology("h200:1").chip
    assert half is not None and half.memory_bytes * 2 == pytest.approx(chip.memory_bytes)
