"""The mean of parameters: its recurrence, no change of the training; evaluated and exported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.training import first_state, mesh_program, optim, over_mesh, step
from tests.programs import tool, train
from tests.test_train import read_lines, weights, weights_in
from tests.training.test_groups import asked

KEY = "eval/heldout/loss"
DECAY = 0.25  # reached at the third step: before, a mean has fewer


def states(sizes, num_steps, **fields):
    """The states of a run with a mean over a mesh, step by step, and its program."""
    devices = jax.devices() if sizes != tiny.ONE_DEVICE else jax.devices()[:1]
    over = mesh_lib.make_mesh(sizes, devices)
    one = dataclasses.replace(asked(eps=1e-2, ema_decay=DECAY, **fields), mesh=sizes)
    program = mesh_program.make_program(one, tiny.SETTINGS, 9, over)
    with jax.set_mesh(over):
        params = jax.device_put(tiny.host_params(), program.placement.params)
        current, found = first_state.of_params(program, params), []
        found.append(jax.device_get(current))
        rows = jax.device_put(tiny.uneven_batch(8), over_mesh.batch_sharding(over))
        for _ in range(num_steps):
            current, _ = program.train_step(current, rows)  # takes over the memory of both
            found.append(jax.device_get(current))
    return program, found


@pytest.fixture(scope="module")
def one_device():
    return states(tiny.ONE_DEVICE, 4)


def test_it_is_the_mean_of_the_parameters_and_changes_none(one_device):
    _, found = one_device
    mean = tiny.host_params()
    tiny.assert_trees_equal(found[0].opt_state.mean, mean)
    for count, one in enumerate(found[1:]):
        kept = min(DECAY, (1 + count) / (10 + count))
        mean = jax.tree.map(lambda m, p, k=kept: k * m + (1 - k) * p, mean, one.params)
        tiny.assert_trees_close(one.opt_state.mean, mean, rtol=1e-6)
    assert kept == DECAY and found[-1].opt_state.steps == 4
    assert np.any(found[-1].opt_state.mean["head_DV"] != found[-1].params["head_DV"])
    plain = optim.make_optimizer(asked(eps=1e-2).optim)
    shapes = {"a_DF": jax.ShapeDtypeStruct((4, 8), jnp.float32)}
    with_it = optim.make_optimizer(asked(ema_decay=0.9).optim)
    assert with_it.bytes_per_parameter(shapes) == plain.bytes_per_parameter(shapes) + 4


def test_it_is_the_result_where_it_is_asked_for(one_device):
    program, found = one_device
    result = step.result_params(program.recipe, found[-1])
    tiny.assert_trees_equal(result, found[-1].opt_state.mean)
    kept_only = optim.make_optimizer(asked(ema_decay=DECAY, ema_is_result=False).optim)
    recipe = dataclasses.replace(program.recipe, optimizer=kept_only)
    tiny.assert_trees_equal(step.result_params(recipe, found[-1]), found[-1].params)


def test_the_mesh_changes_nothing_and_frozen_parameters_are_as_they_were(one_device):
    rules = (config.Group(pattern="norms", frozen=True),)
    sizes = config.Mesh(data=2, fsdp=2, tensor=2)
    program, found = states(sizes, 2, groups=rules, last_layers=1)
    placed = program.placement.opt_state.mean
    assert placed == program.placement.trained
    last = found[-1]
    assert "embedding_VD" not in last.opt_state.mean
    start = tiny.host_params()["layers"]["mlp"]["up_DF"]
    np.testing.assert_array_equal(last.opt_state.mean["layers"]["mlp"]["up_DF"][0], start[0])
    whole = states(sizes, 1)[1][-1]
    tiny.assert_trees_close(whole.opt_state.mean, one_device[1][1].opt_state.mean)


def test_a_skipped_step_leaves_it(one_device):
    program, found = one_device
    before = found[-1]
    nothing = tiny.uneven_batch(8)
    nothing.weights_BT[:] = 0
    with jax.set_mesh(program.mesh):
        state = jax.device_put(before, program.placement)
        after, _ = program.train_step(state, nothing)
    tiny.assert_trees_equal(jax.device_get(after.opt_state), before.opt_state)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"ema_decay": 1.0}, r"ema_decay=1.0: must lie in \(0, 1\)"),
        ({"ema_is_result": False}, "ema_is_result=False: config.optim.ema_decay=None has no mean"),
    ],
)
def test_a_mean_that_could_not_be_is_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        config.validate(asked(**fields))


@pytest.mark.slow
def test_a_run_evaluates_and_exports_it_and_so_does_its_checkpoint(tmp_path):
    flags = (
        *("--config.train.steps=4", "--config.eval.prompts=0", "--config.eval.every_steps=2"),
        *("--config.optim.ema_decay=0.9", "--config.checkpoint.save_every_steps=None"),
    )
    done = train(tmp_path / "mean", *flags)
    assert "decay 0.9: evaluations and export take it" in done.stdout
    train(tmp_path / "last", *flags, "--config.optim.ema_is_result=False")
    mean, last = weights(tmp_path / "mean"), weights(tmp_path / "last")
    assert all(np.any(mean[name] != last[name]) for name in mean)
    lines = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("mean", "last")]
    for at in (2, 4):
        behind, ahead = (
            next(one[KEY] for one in file if one["step"] == at and KEY in one) for file in lines
        )
        assert behind > ahead  # as the loss falls
    exported = tool("export_hf", f"--workdir={tmp_path / 'mean'}", f"--output={tmp_path / 'out'}")
    assert exported.returncode == 0, exported.stderr
    for name, array in weights_in(tmp_path / "out").items():
        np.testing.assert_array_equal(array, mean[name])
