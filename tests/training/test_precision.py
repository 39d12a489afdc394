"""Gradients and moments in bfloat16: half the bytes, and an update within bfloat16 of float32's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft.config import Mesh
from jaxsft.training import mesh_program
from tests.training.test_mesh_fit import config

# Parameters outweigh activations.
WIDE = dataclasses.replace(tiny.SETTINGS, embed_dim=128, mlp_dim=512, num_layers=4)
HALF = dataclasses.replace(tiny.OPTIM, gradient_dtype="bfloat16", first_moment_dtype="bfloat16")


def compiled(optim, **train):
    """The step over 8 devices: its program, the bytes of its parameters, and its memory."""
    asked = dataclasses.replace(config(Mesh(fsdp=8), **train), optim=optim)
    built = mesh_program.make_program(asked, WIDE, 2, mesh_program.checked_mesh(asked, WIDE))
    made = mesh_program.compile_train_step(built, asked)
    return built, 4 * built.num_parameters / 8, made.memory_analysis()


@pytest.fixture(scope="module")
def float32():
    return compiled(tiny.OPTIM, batch_size=8)


def held(built):
    return sum(
        int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf, sharding in zip(
            jax.tree.leaves(built.shapes), jax.tree.leaves(built.placement), strict=True
        )
    )


def test_the_whole_state_is_donated(float32):
    built, _, memory = float32
    assert memory.alias_size_in_bytes == held(built)


def test_bfloat16_halves_gradients_and_first_moment(float32):
    """12 bytes a parameter instead of 16, of which the gradients' are temporaries."""
    before, parameters, memory = float32
    after, _, smaller = compiled(HALF, batch_size=8)
    assert smaller.alias_size_in_bytes == held(after)
    assert held(before) - held(after) == pytest.approx(parameters / 2, rel=0.02)
    saved = memory.temp_size_in_bytes - smaller.temp_size_in_bytes
    assert saved > 0.9 * parameters / 2


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_update_is_that_of_float32_within_bfloat16(microbatches):
    options = {"num_steps": 3, "microbatches": microbatches}
    batch, start = tiny.uneven_batch(), tiny.host_params()
    exact = tiny.run_steps(batch, **options)
    rounded = tiny.run_steps(batch, optim_config=HALF, **options)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded.grad_sums)} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(rounded.metrics.grad_norm, exact.metrics.grad_norm, rtol=2**-8)

    def moved(result):
        change = jax.tree.map(np.subtract, result.state.params, start)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)])

    difference = np.linalg.norm(moved(rounded) - moved(exact))
    assert 0 < difference < 2**-7 * np.linalg.norm(moved(exact))


@pytest.mark.parametrize("parameter_dtype", ["float32", "bfloat16"])
def test_the_second_moment_is_never_bfloat16(parameter_dtype):
    asked = dataclasses.replace(config(Mesh(fsdp=8), batch_size=8), optim=HALF)
    model = dataclasses.replace(asked.model, parameter_dtype=parameter_dtype)
    asked = dataclasses.replace(asked, model=model)
    built = mesh_program.make_program(asked, WIDE, 2, mesh_program.checked_mesh(asked, WIDE))
    adam = built.shapes.opt_state[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(adam.nu)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(adam.mu)} == {jnp.dtype("bfloat16")}
