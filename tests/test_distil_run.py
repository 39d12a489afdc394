"""A run with a teacher through the whole program: what it says, logs and refuses; going on."""

import shutil

import jax
import pytest

from jaxsft.convert import pretrained
from jaxsft.convert.export.directory import export
from jaxsft.model import state
from tests.programs import ROOT, train
from tests.test_train import assert_same_result, read_lines

FLAGS = (
    "--config.train.steps=4",
    "--config.train.microbatches=2",
    "--config.mesh.fsdp=4",
    "--config.mesh.tensor=2",
    "--config.checkpoint.save_every_steps=2",
    "--config.eval.prompts=0",
    "--config.distil.alpha=0.25",
)


def random_model(directory, seed):
    """The debug model with weights on disk, in bfloat16."""
    model = pretrained.open_pretrained(ROOT / "configs" / "debug_model", weights=False)
    _, shapes, _ = state.abstract(model.settings, "float32", "none")
    one = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    params = state.random_params(model.settings, seed, one)
    return export(params, model, directory, dtype="bfloat16").directory


def taught_by(teacher, temperature=2):
    return f"--config.distil.teacher={teacher}", f"--config.distil.temperature={temperature}"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The directories of a run and of its teacher, and what it said."""
    parent = tmp_path_factory.mktemp("distil")
    teacher = random_model(parent / "teacher", 3)
    done = train(parent / "workdir", *FLAGS, *taught_by(teacher))
    return parent / "workdir", teacher, done.stdout


def test_it_says_who_teaches_and_logs_how_far_the_student_is(ran):
    workdir, teacher, said = ran
    assert f"distil     teacher {teacher}: 0.1M parameters, 2 layers, kept in bfloat16" in said
    assert "objective = 0.25 x the loss + 3 x KL(teacher || student) at temperature 2" in said
    lines = [line for line in read_lines(workdir / "metrics.jsonl") if "loss" in line]
    assert len(lines) == 4
    for line in lines:
        expected = 0.25 * line["loss"] + 0.75 * 2**2 * line["kl"]
        assert line["objective"] == pytest.approx(expected, rel=1e-5) and line["kl"] > 0
    assert not any("kl" in name for line in read_lines(workdir / "metrics.jsonl") for name in line
                   if name.startswith("eval/"))  # fmt: skip


def test_the_report_says_so(ran):
    workdir, teacher, _ = ran
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert f">{teacher}<" in page and "KL(teacher || student)" in page


def test_two_steps_and_two_after_a_restart_equal_four(ran, tmp_path):
    first, teacher, _ = ran
    workdir = tmp_path / "workdir"
    shutil.copytree(first, workdir)
    for part in (workdir / "checkpoints" / "4", workdir / "export"):
        shutil.rmtree(part)
    assert "from step 2 of 4" in train(workdir, *FLAGS, *taught_by(teacher)).stdout
    assert_same_result(workdir, first)
    other = train(workdir, *FLAGS, *taught_by(teacher, 3), check=False)
    assert other.returncode == 66
    assert "config.distil.temperature was 2.0 when this run began and is 3.0 now" in other.stderr


def test_it_does_not_go_on_with_another_teacher_of_that_name(ran, tmp_path):
    first, teacher, _ = ran
    workdir = tmp_path / "workdir"
    shutil.copytree(first, workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    kept = tmp_path / "kept"
    shutil.move(teacher, kept)
    try:
        random_model(teacher, 4)
        done = train(workdir, *FLAGS, *taught_by(teacher), check=False)
    finally:
        shutil.rmtree(teacher)
        shutil.move(kept, teacher)
    assert done.returncode == 66
    assert "config.distil.teacher: embedding_VD is not what this run has learnt from" in done.stderr
