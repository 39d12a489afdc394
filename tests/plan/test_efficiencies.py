"""The time that is expected of a step, beside times that were measured."""

import pytest

from jaxsft.devices.chips import CHIPS
from jaxsft.plan.efficiencies import expected_seconds

H200 = CHIPS["NVIDIA H200"]


@pytest.mark.parametrize(
    ("tflop", "gb_moved", "measured_ms"),
    [
        pytest.param(125.8, 334.1, 236.8, id="llama3_2_1b_unrolled"),
        pytest.param(126.0, 400.7, 250.4, id="llama3_2_1b_looped"),
        pytest.param(311.2, 728.7, 579.9, id="qwen3_4b"),
        pytest.param(377.5, 699.7, 679.7, id="llama3_1_8b"),
    ],
)
def test_a_gpus_step_takes_its_products_and_then_its_memory(tflop, gb_moved, measured_ms):
    """docs/measurements/gpu: what the plan counts in the compiled programs, and their times."""
    matmuls, memory = tflop * 1e12 / H200.bf16_flops, gb_moved * 1e9 / H200.memory_bandwidth
    expected_ms = 1e3 * expected_seconds(H200, matmuls, memory, 0.0)
    assert expected_ms == pytest.approx(measured_ms, rel=0.1)


def test_a_tpu_loads_while_it_multiplies():
    chip = CHIPS["TPU v5p"]
    assert expected_seconds(chip, 0.7, 0.4, 0.0) == pytest.approx(1.0)
    assert expected_seconds(chip, 0.7, 1.6, 0.35) == pytest.approx(2.0)
    assert expected_seconds(chip, 0.7, 0.4, 2.1) == pytest.approx(3.0)


def test_what_is_sent_runs_beside_both():
    assert expected_seconds(H200, 0.8, 0.8, 0.7) == pytest.approx(2.0)
    assert expected_seconds(H200, 0.8, 0.8, 2.1) == pytest.approx(3.0)
