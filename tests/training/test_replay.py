"""Hardware that computes or remembers wrongly, planted into whole runs of the program."""

import dataclasses
import json

import jax
import pytest

from jaxsft.training.over_mesh import TrainStep
from jaxsft.training.step import TrainState
from tests.faults import fault
from tests.programs import train
from tests.training.test_device_digests import with_flipped_bit

FLAGS = ("--config.eval.prompts=0", "--config.train.steps=9", "--config.mesh.data=8")
CHECKS = (
    *FLAGS,
    "--config.train.sdc_check_every_steps=4",
    "--config.checkpoint.save_every_steps=3",
)


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def planted(monkeypatch, calls, spoil):
    """After so many calls of the step, a bit of the first trained leaf is another one."""
    plain, count = TrainStep.__call__, [0]

    def call(self, state, batch):
        new, metrics = plain(self, state, batch)
        count[0] += 1
        return (spoil(new) if count[0] == calls else new), metrics

    monkeypatch.setattr(TrainStep, "__call__", call)


def bit_on_device_3(state: TrainState) -> TrainState:
    leaves, tree = jax.tree.flatten(state.trained)
    leaves[0] = with_flipped_bit(leaves[0], jax.devices()[3], 7, 12)
    return dataclasses.replace(state, trained=jax.tree.unflatten(tree, leaves))


def test_a_run_that_is_checked_is_the_run_that_is_not(tmp_path, monkeypatch):
    """Nor does the second making begin with more on the devices: the first one's state is gone."""
    plain, held = TrainStep.__call__, []

    def call(self, state, batch):
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        return plain(self, state, batch)

    monkeypatch.setattr(TrainStep, "__call__", call)
    done = train(tmp_path / "checked", *CHECKS)
    checked = held.copy()
    held.clear()
    assert "\nsdc        step 4 was made twice with the same bits" in done.stdout
    assert "\nsdc        step 8 was made" in done.stdout
    train(tmp_path / "plain", *FLAGS)
    assert len(checked) == len(held) + 2
    assert checked[4] < 1.1 * held[3], (checked, held)
    assert losses(tmp_path / "checked") == losses(tmp_path / "plain")
    export = [(tmp_path / name / "export/model.safetensors") for name in ("checked", "plain")]
    assert export[0].read_bytes() == export[1].read_bytes()


@fault(
    "numbers",
    "a bit of one device's parameters flips, with `train.sdc_check_every_steps`",
    "the next check names the device and what it held; nothing is saved after it",
    lost="the steps since the last check, which are not sure",
    code=72,
)
def test_a_flipped_bit_on_one_device_is_found_and_the_device_named(tmp_path, monkeypatch):
    """After step 6: at the check of step 8, whose checkpoint of step 6 is not sure."""
    planted(monkeypatch, 7, bit_on_device_3)  # step 4 is made twice
    done = train(tmp_path, *CHECKS, check=False)
    assert done.returncode == 72, done.stdout + done.stderr
    assert "hold the same differ: device 3 of process 0 in params." in done.stderr
    assert "seen before step 8 was saved" in done.stderr and "up to step 4" in done.stderr
    error = json.loads((tmp_path / "error.json").read_text())
    assert error["exit_code"] == 72 and "device 3" in error["message"]
    assert not (tmp_path / "export").exists()


@fault(
    "numbers",
    "a device computes a step wrongly once, with `train.sdc_check_every_steps`",
    "the step is made twice and differs: the devices are named",
    lost="the steps since the last check",
    code=72,
)
@pytest.mark.parametrize("calls", [4, 5])
def test_a_step_that_differs_when_it_is_made_twice_ends_the_run(tmp_path, monkeypatch, calls):
    planted(monkeypatch, calls, bit_on_device_3)
    done = train(tmp_path, *CHECKS, check=False)
    assert done.returncode == 72
    assert "step 4 was made twice from the same bits and differs: device 3 of" in done.stderr
