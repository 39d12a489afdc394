"""The program with all its writers and a trace: two starts of a run are one at each of them."""

import json

import pytest

from tests import programs
from tests.rundir.writers import test_tensorboard, test_wandb

offline = test_wandb.offline


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_same_run_at_every_writer(tmp_path):
    workdir = tmp_path / "run"
    asked = '--config.log.writers=["tensorboard", "wandb"]'
    flags = (asked, "--config.checkpoint.export=false", "--config.log.profile_steps=2,3")
    first = programs.train(workdir, *flags, "--config.train.steps=3", "--config.eval.prompts=2")
    assert "tensorboard --logdir=" in first.stdout and "to send it: wandb sync" in first.stdout
    done = programs.train(workdir, *flags, "--config.train.steps=5")
    assert f"profile    steps 2 to 3: {workdir}/profile" in first.stdout
    assert len(list((workdir / "profile").rglob("*.xplane.pb"))) == 1
    warnings = [line for line in done.stdout.splitlines() if "warning: " in line]
    assert len(warnings) == 1 and "no trace of steps 2 to 3: this start goes on" in warnings[0]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    found = test_tensorboard.scalars(workdir)
    assert {step: pytest.approx(value) for step, value in found["loss"]} == losses
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in found["eval/heldout/loss"]][:1] == [0]
    (id, start), (again_id, again) = test_wandb.records(workdir)
    sent = test_wandb.history_of(start) + test_wandb.history_of(again)
    assert id == again_id
    assert [int(line["step"]) for line in sent if "loss" in line] == [1, 2, 3, 4, 5]
