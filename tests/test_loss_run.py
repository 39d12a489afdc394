"""A run that minimises another loss: what it says, and that it goes on as if never interrupted."""

import shutil

import pytest

from tests.programs import train
from tests.test_train import assert_same_result, read_lines

LOSS = (
    "--config.loss.reduction=example_mean",
    '--config.loss.source_weights={"prompts": 2.0}',
    "--config.loss.label_smoothing=0.1",
    "--config.loss.neftune_alpha=5",
)
FLAGS = (
    "--config.train.steps=4",
    "--config.train.microbatches=2",
    "--config.mesh.fsdp=4",
    "--config.mesh.tensor=2",
    "--config.checkpoint.save_every_steps=2",
    "--config.eval.prompts=0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("loss") / "workdir"
    said = train(workdir, *FLAGS, *LOSS).stdout
    assert "config.loss: reduction=example_mean, source_weights={'prompts': 2.0}, label" in said
    return workdir


def test_loss_is_the_plain_one_beside_the_objective(run):
    lines = [line for line in read_lines(run / "metrics.jsonl") if "loss" in line]
    assert len(lines) == 4 and all(line["objective"] != line["loss"] for line in lines)
    for line in lines:
        apart = [line[f"loss/{name}"] for name in ("train", "prompts")]
        assert min(apart) - 1e-6 <= line["loss"] <= max(apart) + 1e-6


def test_two_steps_and_two_after_a_restart_equal_four(run, tmp_path):
    """The noise of a step is the step's own."""
    workdir = tmp_path / "workdir"
    shutil.copytree(run, workdir)
    for part in (workdir / "checkpoints" / "4", workdir / "export"):
        shutil.rmtree(part)
    assert "from step 2 of 4" in train(workdir, *FLAGS, *LOSS).stdout
    assert_same_result(workdir, run)
    other = train(workdir, *FLAGS, *LOSS[:-1], "--config.loss.neftune_alpha=6", check=False)
    assert other.returncode == 66
    assert "config.loss.neftune_alpha was 5.0 when this run began and is 6.0 now" in other.stderr
