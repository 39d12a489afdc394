"""The time that is expected of a step, beside times that were measured."""

import pytest

from jaxsft.devices.chips import CHIPS
from jaxsft.plan.efficiencies import expected_seconds
from jaxsft.plan.kernels import Kernel

H100, H200 = CHIPS["NVIDIA H100"], CHIPS["NVIDIA H200"]


@pytest.mark.parametrize(
    ("chip", "kernels", "measured_ms"),
    [
        pytest.param(H100, [(122.7, 125.3), (3.1, 22.8), (0, 158.8)], 245.5, id="1b_h100"),
        pytest.param(H200, [(122.7, 125.3), (3.1, 22.8), (0, 158.8)], 232.6, id="1b"),
        pytest.param(H200, [(125.8, 151.3), (0, 223.0)], 250.4, id="1b_looped"),
        pytest.param(H200, [(311.1, 272.8), (0, 369.9)], 579.9, id="qwen3_4b"),
        pytest.param(H200, [(4072.8, 2455.3), (37.9, 2418.9), (0, 6223.5)], 8470, id="8b_lora"),
        pytest.param(H100, [(4072.8, 2455.3), (37.9, 2418.9), (0, 6018.9)], 9137, id="8b_nf4_h100"),
    ],
)
def test_a_gpus_kernel_takes_its_products_or_its_memory(chip, kernels, measured_ms):
    """docs/measurements/gpu: what the plan counts in the compiled programs, and their times.

    TFLOP and GB of each program's kernels: bound by products, by memory, without products.
    """
    found = [Kernel(tflop * 1e12, gb * 1e9) for tflop, gb in kernels]
    assert 1e3 * expected_seconds(chip, found, 0.0) == pytest.approx(measured_ms, rel=0.05)


def of_chip(chip, matmuls, memory):
    """A kernel that takes so many seconds at the chip's peaks."""
    return Kernel(matmuls * chip.bf16_flops, memory * chip.memory_bandwidth)


def test_a_tpu_loads_while_it_multiplies():
    chip = CHIPS["TPU v5p"]
    apart = [of_chip(chip, 0.7, 0.0), of_chip(chip, 0.0, 0.4)]
    assert expected_seconds(chip, apart, 0.0) == pytest.approx(1.0)
    assert expected_seconds(chip, [of_chip(chip, 0.7, 1.6)], 0.35) == pytest.approx(2.0)
    assert expected_seconds(chip, apart, 2.1) == pytest.approx(3.0)


def test_what_a_gpu_sends_goes_beside_all_else():
    kernels = [of_chip(H200, 0.68, 0.4), of_chip(H200, 0.34, 0.8)]
    assert expected_seconds(H200, kernels, 0.7) == pytest.approx(2.0)
    assert expected_seconds(H200, kernels, 2.1) == pytest.approx(3.0)
