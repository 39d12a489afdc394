"""`jaxsft curve` as a user has it: runs on shares of the rows, each trained once."""

import json

import numpy as np
import pytest

from jaxsft import errors
from jaxsft.data.quality.division import NOT_SHARED
from tests import programs

pytestmark = pytest.mark.slow
FLAGS = ("--config.train.steps=8", "--config.eval.every_steps=None", "--config.eval.match=exact")
FLAGS += ("--config.log.every_steps=4", "--config.checkpoint.save_every_steps=None")


def curve(workdir, *flags):
    config = f"--config={programs.ROOT}/configs/debug.py"
    return programs.tool("curve", config, f"--workdir={workdir}", "--shares=0.5,1", *FLAGS, *flags)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("curve")
    done = curve(workdir)
    assert done.returncode == errors.DONE, done.stdout + done.stderr
    return workdir, done


def test_each_share_is_a_run_and_a_point(first):
    workdir, done = first
    found = json.loads((workdir / "curve.json").read_text())
    half, whole = found["points"]
    assert [half["share"], whole["share"]] == [0.5, 1.0]
    assert [half["rows"], whole["rows"]] == [30, 60] and [half["steps"], whole["steps"]] == [4, 8]
    assert half["epochs"] == pytest.approx(whole["epochs"], rel=0.4)  # few packed rows
    assert half["held_out"] == whole["held_out"]
    for point in (half, whole):
        sums = point["losses"]["heldout"]
        loss = np.sum(sums["nll"]) / np.sum(sums["weights"])
        assert loss == pytest.approx(point["after"]["eval/heldout/loss"], rel=1e-5)
        assert len(sums["nll"]) == 12
        assert not (workdir / point["directory"] / "export").exists()
    report = json.loads((workdir / "share_50" / "data_report.json").read_text())["train"]
    assert report["dropped"] == {NOT_SHARED: 30} and report["rows_out"] == 30
    (gain,) = found["gains"]
    losses = [point["after"]["eval/heldout/loss"] for point in (half, whole)]
    assert gain["mean"] == pytest.approx(losses[0] - losses[1], rel=1e-3)
    assert "too few examples to say" in found["says"][0] and found["says"][0] in done.stdout
    assert "heldout match: 0 -> 0" in found["says"][1] and "50 %" in done.stdout
    assert "--config.data.share=0.5 --config.train.steps=4" in done.stdout


def test_a_later_start_trains_nothing_again(first):
    workdir, _ = first
    file = workdir / "curve.json"
    before = file.read_text()
    again = curve(workdir)
    assert again.returncode == errors.DONE and again.stdout.count("is done") == 2
    assert "compiled in" not in again.stdout and file.read_text() == before
    # Killed after the training of a point, before it was written down.
    value = json.loads(before)
    file.write_text(json.dumps(value | {"points": value["points"][:1]}))
    again = curve(workdir)
    assert again.returncode == errors.DONE and again.stdout.count("is done") == 1
    assert "compiled in" not in again.stdout
    points = json.loads(file.read_text())["points"]
    assert points[1]["after"] == value["points"][1]["after"]
    changed = curve(workdir, "--config.optim.peak_lr=1e-4")
    assert changed.returncode == errors.BAD_CONFIG
    assert "peak_lr was 0.003 and is 0.0001; go back" in changed.stderr
