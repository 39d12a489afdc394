"""Chips are found by the names that jax gives them."""

import pytest

from jaxsft.devices.chips import CHIPS, chip_of


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
