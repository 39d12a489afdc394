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
    ],
)
def test_the_longest_fitting_name_wins(device_kind, name):
    assert chip_of(device_kind) is CHIPS[name]


def test_an_unknown_device_has_no_rates():
    assert chip_of("cpu") is None


@pytest.mark.parametrize(("kind", "peak"), [("NVIDIA H100 80GB HBM3", 4 * 989e12), ("cpu", None)])
def test_the_peak_is_that_of_all_devices(kind, peak):
    assert peak_flops([types.SimpleNamespace(device_kind=kind)] * 4) == peak
