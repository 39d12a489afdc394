"""Adapters that begin as the largest part of their weights: their change, meshes, what is saved."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxsft import config
from jaxsft.config import Lora
from jaxsft.devices import mesh
from jaxsft.devices.digest import named
from jaxsft.errors import ConfigError
from jaxsft.model import adapter_plan, state
from jaxsft.model.adapter import Adapted, whole_stack, without_starts
from jaxsft.training import lora, mesh_program, over_mesh, step
from jaxsft.training.saved_state import saved_of, state_of
from tests.training.test_lora import EIGHT, LENGTH, ONE, ROWS, asked, distance

PISSA = Lora(rank=4, init="pissa")


def begun(sizes, devices):
    """The program, and the state before step 0, whose adapters were made on this mesh."""
    one = dataclasses.replace(asked(sizes), lora=PISSA)
    over = mesh.make_mesh(sizes, [jax.devices()[i] for i in devices])
    program = mesh_program.make_program(one, tiny.SETTINGS, 20, over)
    own = adapter_plan.without_adapters(program.placement.params)
    with jax.set_mesh(over):
        params = jax.device_put(tiny.host_params(), own)
        made = program.adapters.specs, program.adapters.weights
        params = adapter_plan.first_values(*made, params, program.placement.params, seed=0)
        return program, step.init_state(program.recipe, params)


def trained(program, current, steps=20):
    with jax.set_mesh(program.mesh):
        rows = tiny.uneven_batch(ROWS, LENGTH)
        batch = jax.device_put(rows, over_mesh.batch_sharding(program.mesh))
        for _ in range(steps):
            current, _ = program.train_step(current, batch)
    return current


def test_twenty_steps_are_the_same_on_a_mesh():
    ends = []
    for over in (ONE, (config.Mesh(fsdp=4, tensor=2), EIGHT)):
        program, current = begun(*over)
        first = jax.device_get(current.trained)
        ends.append((jax.device_get(trained(program, current).trained), first))
    (expected, first), (found, first_there) = ends
    jax.tree.map(np.testing.assert_array_equal, first_there, first)
    assert distance(found, expected, first) < 1e-5


def test_what_is_changed_is_the_product_now_without_that_of_the_start():
    program, current = begun(*ONE)
    layers = trained(program, current, steps=3).params["layers"]["mlp"]
    weight_LDF, parts = np.float64(layers["up_DF"]), layers["up_DF_lora"]
    a, b, a_start, b_start = (np.float64(parts[n]) for n in ("a", "b", "a_start", "b_start"))
    assert np.abs(a - a_start).max() > 1e-4 and np.abs(b - b_start).max() > 1e-4
    expected = weight_LDF + 8.0 * (a @ b - a_start @ b_start)
    found = whole_stack(Adapted(layers["up_DF"], **parts))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_has_what_adapters_began_with():
    """So that a run goes on by it, and not by what another machine would compute."""
    program, current = begun(*ONE)
    current = trained(program, current, steps=2)
    saved = saved_of(current)
    _, starts = without_starts(saved.params)
    assert set(named(saved.params)) == set(named(current.trained)) | set(named(starts))
    assert len(named(starts)) == 2 * len(program.adapters.specs)
    elsewhere = jax.tree.map(lambda leaf: leaf * 1.5, starts)
    made = program.adapters.specs, program.adapters.weights
    params = adapter_plan.first_values(
        *made, tiny.host_params(), program.placement.params, seed=0, starts=elsewhere
    )
    _, frozen = state.split(params, program.recipe.frozen)
    again = state_of(saved, frozen)
    jax.tree.map(np.testing.assert_array_equal, again.trained, current.trained)
    jax.tree.map(np.testing.assert_array_equal, without_starts(again.frozen)[1], elsewhere)


def test_it_has_no_more_ranks_than_a_weight_has_singular_values():
    _, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
    with pytest.raises(ConfigError, match=r"a rank of 17, but layers.attention.k_DKH has 16 sing"):
        lora.declare(dataclasses.replace(PISSA, rank=17), tiny.SETTINGS, shapes, axes)


def test_it_says_what_it_does():
    one = dataclasses.replace(asked(), lora=PISSA)
    said = lora.lora_notes(one)
    assert "twice the rank" in said[0] and "weight_decay=0.1 draws" in said[1]
    flat = nnx.traversals.flatten_mapping(begun(*ONE)[0].shapes.trained)
    assert {path[-1] for path in flat} == {"a", "b"}
