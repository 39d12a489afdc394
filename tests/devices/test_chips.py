"""Chips are found by the names that jax gives them."""

import types

import pytest

from jaxsft.devices.chips import CHIPS, chip_of, peak_flops


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("NVIDIA H200", "NVIDIA H200"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
        ("NVIDIA H100 NVL", "NVIDIA H100 NVL"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200"),
        ("NVIDIA GH200 144G HBM3e", "NVIDIA GH200 144G"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("TPU7x", "TPU7x"),
    ],
)
def test_the_longest_fitting_name_wins(device_kind, name):
    assert chip_of(device_kind) is CHIPS[name]


def test_rates_are_in_units_of_one():
    v5p, h100 = CHIPS["TPU v5p"], CHIPS["NVIDIA H100"]
    assert (v5p.bf16_flops, v5p.memory_bytes) == (459e12, 95.74 * 2**30)
    assert (v5p.link_bandwidth, v5p.network_bandwidth) == (600e9, 6.25e9)
    assert (h100.memory_bytes, h100.memory_bandwidth) == (80e9, 3350e9)
    assert (h100.link_bandwidth, h100.network_bandwidth) == (450e9, 50e9)


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 4090 Laptop GPU"])
def test_an_unknown_device_has_no_rates(kind):
    assert chip_of(kind) is None


@pytest.mark.parametrize(("kind", "peak"), [("NVIDIA H100 80GB HBM3", 4 * 989e12), ("cpu", None)])
def test_the_peak_is_that_of_all_devices(kind, peak):
    assert peak_flops([types.SimpleNamespace(device_kind=kind)] * 4) == peak
