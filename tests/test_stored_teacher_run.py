"""A run that learns from what rows say of a teacher is the run that asks the teacher itself."""

import dataclasses
import json
import warnings

import jax
import numpy as np
import pytest

import jaxsft
from tests.programs import ROOT, run
from tests.test_distil_run import random_model
from tests.test_train import read_lines

CONFIG = """
import dataclasses, runpy
from jaxsft.config import Checkpoint, Mesh, Source

debug = runpy.run_path({debug!r})["get_config"]()


def get_config():
    return dataclasses.replace(
        debug,
        data=dataclasses.replace(debug.data, train=(Source(path={rows!r}),), eval=()),
        train=dataclasses.replace(debug.train, steps=3, microbatches=2),
        eval=dataclasses.replace(debug.eval, prompts=0, every_steps=None),
        checkpoint=Checkpoint(export=False),
        mesh=Mesh(fsdp=4, tensor=2),
    )
"""
TOP_K = 6
pytestmark = pytest.mark.slow  # the parts of it have quick laws: kernels/loss, data, training


@dataclasses.dataclass(frozen=True)
class Files:
    teacher: str
    config: str
    rows: list
    path: object


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Rows of random tokens, with the teacher's likeliest tokens where they are trained."""
    folder = tmp_path_factory.mktemp("stored")
    teacher = random_model(folder / "teacher", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = jaxsft.load_model(teacher)
    rng, rows = np.random.default_rng(0), []
    logits = jax.jit(lambda model, tokens: model(tokens))
    for _ in range(40):
        ids = rng.integers(0, 512, 24)
        trained = rng.random(24) < 0.4
        trained[0], trained[-1] = False, True
        # What stands at a token's place is what the teacher says before it.
        before = np.asarray(jax.nn.log_softmax(logits(model, ids[None].astype(np.int32))[0]))
        before = np.roll(before, 1, axis=0)
        best = np.argsort(-before, axis=-1)[:, : TOP_K + 2]
        rows.append(
            {
                "input_ids": ids.tolist(),
                "weights": trained.astype(int).tolist(),
                "teacher_ids": [
                    b.tolist() if t else None for b, t in zip(best, trained, strict=True)
                ],
                "teacher_logprobs": [
                    before[i, b].astype(float).tolist() if t else None
                    for i, (b, t) in enumerate(zip(best, trained, strict=True))
                ],
            }
        )
    path = folder / "rows.jsonl"
    write(path, rows)
    config = folder / "config.py"
    debug = str(ROOT / "configs" / "debug.py")
    config.write_text(CONFIG.format(debug=debug, rows=str(path)), encoding="utf-8")
    return Files(str(teacher), str(config), rows, path)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def trained(files, workdir, *flags):
    given = (f"--config={files.config}", f"--workdir={workdir}", "--num_processes=1")
    return run("jaxsft.train", *given, f"--config.distil.top_k={TOP_K}", *flags)


def test_the_rows_words_are_the_teachers(files, tmp_path):
    online = trained(files, tmp_path / "online", f"--config.distil.teacher={files.teacher}")
    stored = trained(files, tmp_path / "stored")
    assert (online.returncode, stored.returncode) == (0, 0), online.stderr + stored.stderr
    assert f"KL(teacher || student), of at most {TOP_K} tokens that the rows say" in stored.stdout
    of_online, of_stored = (
        [line for line in read_lines(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("online", "stored")
    )
    assert len(of_online) == len(of_stored) == 3
    for ours, theirs in zip(of_stored, of_online, strict=True):
        for name in ("loss", "kl", "objective", "grad_norm"):
            # The teacher of the run computes with weights in bfloat16 as they are in its files.
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4), name
        assert ours["kl"] > 0


def test_rows_without_a_teachers_words_are_refused(files, tmp_path):
    plain = [{k: v for k, v in row.items() if "teacher" not in k} for row in files.rows[:9]]
    write(files.path, files.rows[:7] + plain)
    done = trained(files, tmp_path / "workdir")
    write(files.path, files.rows)
    assert done.returncode == 64
    assert f"9 of 16 examples have no teacher_ids and teacher_logprobs, such as {files.path}:8" in (
        done.stderr
    )
