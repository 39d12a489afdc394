"""A run that follows a figure: it ends early, keeps the best step and exports it, wherever it was
interrupted."""

import json
import re
import shutil

import numpy as np
import pytest

from jaxsft.files import run_names
from jaxsft.rundir.checkpoint.store import CheckpointStore
from tests.programs import tool, train
from tests.test_train import assert_same_result, read_lines, weights, weights_in

# 3 steps are an epoch, evaluated after 2, 3, 5, 6, ... The loss gets better each time, so that its
# worst value is the first one and the run ends after three more.
FLAGS = (
    "--config.train.steps=40",
    "--config.data.holdout=6",
    "--config.eval.every_steps=None",
    "--config.eval.times_per_epoch=2",
    "--config.eval.early_stopping=3",
    "--config.eval.prompts=1",
    "--config.checkpoint.save_every_steps=None",
    "--config.checkpoint.save_times_per_epoch=1",
    "--config.checkpoint.best=eval/holdout/loss",
    "--config.checkpoint.best_mode=max",
    "--config.checkpoint.keep=1",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("best") / "workdir"
    return workdir, train(workdir, *FLAGS)


def steps_of(workdir) -> list[int]:
    names = (path.name for path in (workdir / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdigit())


def test_it_ends_early_and_says_so_everywhere(run):
    workdir, done = run
    why = "after step 6 of 40: eval/holdout/loss was best after step 2: "
    assert f"\nend        {why}" in done.stdout and "6 steps;" in done.stdout
    assert "3 evaluations in a row did not make it better" in done.stdout
    summary = json.loads((workdir / run_names.SUMMARY).read_text())
    assert (summary["steps"], summary["planned_steps"], summary["exported_step"]) == (6, 40, 2)
    assert summary["ended"].startswith(why) and summary["best"]["step"] == 2
    lines = read_lines(workdir / run_names.METRICS)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    losses = {line["step"]: line["eval/holdout/loss"] for line in lines if "loss" not in line}
    assert list(losses) == [0, 2, 3, 5, 6]
    del losses[0]
    assert summary["best"]["value"] == max(losses.values()) == losses[2]
    assert summary["after"]["eval/holdout/loss"] == losses[2]
    page = (workdir / run_names.REPORT).read_text()
    assert why in page and "finished" in page
    assert re.search(r"eval/holdout/loss [\d.]+ after step 2, which is exported", page)


def test_the_best_step_is_kept_and_exported(run, tmp_path):
    workdir, _ = run
    assert steps_of(workdir) == [2, 6]
    for step, same in ((2, True), (6, False)):
        done = tool(
            "export_hf",
            f"--workdir={workdir}",
            f"--output={tmp_path / str(step)}",
            f"--step={step}",
        )
        assert done.returncode == 0, done.stderr
        ours, theirs = weights(workdir), weights_in(tmp_path / str(step))
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours) == same


def test_prompts_are_of_what_is_held_out_and_the_losses_of_its_sources_too(run):
    samples = read_lines(run[0] / run_names.SAMPLES)
    assert [(one["phase"], one["source"], one["step"]) for one in samples] == [
        ("before", "holdout", 0),
        ("before", "heldout", 0),
        ("after", "holdout", 2),
        ("after", "heldout", 2),
    ]
    line = read_lines(run[0] / run_names.METRICS)[0]
    losses = [line[f"eval/holdout/{name}loss"] for name in ("train/", "", "prompts/")]
    assert sorted(losses)[1] == losses[1] and "eval/heldout/heldout/loss" not in line
    train_only = json.loads((run[0] / run_names.DATA_REPORT).read_text())["train"]
    assert train_only["held_out"] == 6


def test_a_run_that_ended_early_is_not_trained_further_at_another_start(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "workdir")
    shutil.rmtree(workdir / "export")
    done = train(workdir, *FLAGS)
    assert "from step 6 of 40" in done.stdout and "after step 6 of 40" in done.stdout
    assert_same_result(workdir, run[0])


@pytest.mark.parametrize(("dies_at", "goes_on_from"), [(2, None), (6, 3)])
def test_a_kill_between_evaluation_and_save_changes_nothing(
    run, tmp_path, monkeypatch, dies_at, goes_on_from
):
    save = CheckpointStore.save

    def dying(store, step, *given):
        if step == dies_at:
            store.wait()
            raise RuntimeError("killed")
        save(store, step, *given)

    monkeypatch.setattr(CheckpointStore, "save", dying)
    assert train(tmp_path, *FLAGS, check=False).returncode == 70
    monkeypatch.undo()
    said = f"from step {goes_on_from} of 40" if goes_on_from else "from step"
    done = train(tmp_path, *FLAGS)
    assert (said in done.stdout) == (goes_on_from is not None)
    assert_same_result(tmp_path, run[0])
    assert steps_of(tmp_path) == [2, 6]


def test_the_last_step_is_exported_where_that_is_asked_for(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "workdir")
    done = train(workdir, *FLAGS, "--config.checkpoint.export_best=False")
    assert "the best" not in done.stdout.partition("export ")[2]
    summary = json.loads((workdir / run_names.SUMMARY).read_text())
    assert (summary["exported_step"], summary["best"]["step"]) == (6, 2)
    lines = read_lines(workdir / run_names.METRICS)
    assert summary["after"]["eval/holdout/loss"] == lines[-1]["eval/holdout/loss"]


def test_a_figure_that_is_not_there_is_refused_before_a_step(run, tmp_path):
    flags = [flag for flag in FLAGS if "best=" not in flag]
    done = train(tmp_path, *flags, "--config.checkpoint.best=eval/held/loss", check=False)
    assert done.returncode == 64 and "compiled in" not in done.stdout
    assert "best=eval/held/loss: evaluations during training have no such" in done.stderr
    assert "eval/holdout/first_token_loss, eval/heldout/loss" in done.stderr
