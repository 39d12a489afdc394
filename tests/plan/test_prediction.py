"""What a start says that it will cost is what the plan says, from the step that it runs."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from jaxsft.config import Mesh
from jaxsft.devices.chips import CHIPS
from jaxsft.plan import estimate, measured_data, prediction, remat_choice, topology
from jaxsft.training import mesh_program
from tests.plan.test_estimate import config

LENGTHS = np.array([20, 12, 30, 32])


@pytest.fixture(scope="module")
def asked():
    return config(Mesh(fsdp=8))


@pytest.fixture(scope="module")
def chosen(asked):
    mesh = mesh_program.checked_mesh(asked, tiny.SETTINGS)
    built = mesh_program.make_program(asked, tiny.SETTINGS, 1, mesh)
    return remat_choice.choose(built, asked, None, lambda line: None)


def started(asked, chosen):
    epochs = SimpleNamespace(fill=0.75, max_segments=None)
    job: Any = SimpleNamespace(batches=SimpleNamespace(epochs=epochs), num_steps=50)
    train: Any = SimpleNamespace(lengths=LENGTHS, supervised=LENGTHS // 2)
    return prediction.of_start(asked, job, train, chosen), measured_data.load_of(train, epochs)


def test_on_a_cpu_the_memory_is_known_and_no_time_is_made_up(asked, chosen):
    made, _ = started(asked, chosen)
    assert made.memory_bytes == chosen.memory.needed_bytes > 0
    assert made.step_seconds is None and made.in_ram and made.local_devices == 8
    assert "no time of a step: what a cpu can do is not known" in prediction.words(made)


def test_on_a_chip_that_is_known_it_is_the_plans_estimate(asked, chosen, monkeypatch):
    here = topology.Topology("TPU v5p", list(jax.devices()), CHIPS["TPU v5p"], 1)
    monkeypatch.setattr(topology, "here", lambda: here)
    made, rows = started(asked, chosen)
    planned = estimate.make(asked, tiny.SETTINGS, here, rows).seconds
    assert planned is not None and made.step_seconds == planned.estimate > 0
    assert made.num_steps == 50 and "hours of steps" in prediction.words(made)


def test_text_that_can_not_be_read_costs_the_prediction_alone(asked, chosen, monkeypatch):
    here = topology.Topology("TPU v5p", list(jax.devices()), CHIPS["TPU v5p"], 1)
    monkeypatch.setattr(topology, "here", lambda: here)
    compiled = SimpleNamespace(as_text=lambda: 1 / 0)
    made, _ = started(asked, dataclasses.replace(chosen, compiled=compiled))
    assert made.step_seconds is None and "division by zero" in made.why
    assert made.memory_bytes == chosen.memory.needed_bytes


def test_the_links_of_a_slice_that_is_there_are_those_of_its_plan(monkeypatch):
    """4 x 4 chips of a v5e: no dimension is closed, so that half of the links lead on."""
    devices = [
        SimpleNamespace(device_kind="TPU v5 lite", platform="tpu", slice_index=s, coords=(x, y, 0))
        for s in range(2)
        for x in range(4)
        for y in range(4)
    ]
    monkeypatch.setattr(topology.jax, "devices", lambda: devices)
    here = topology.here()
    expected = topology.SliceShape.of([4, 4], 2).links([4, 4], 2)
    assert (here.chip, here.num_slices, here.links) == (CHIPS["TPU v5e"], 2, expected)
