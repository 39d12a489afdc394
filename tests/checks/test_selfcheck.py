"""The self-check passes on sound parts, for dense models and experts, and sees planted faults."""

import dataclasses
import itertools
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny

from jaxsft.checks import bench, laws
from jaxsft.config import Mesh
from jaxsft.devices import mesh as mesh_lib
from jaxsft.kernels.attention import attend
from jaxsft.kernels.attention.form import Visibility
from jaxsft.training import step
from tests import programs, quick_compiling
from tests.training.test_mesh_fit import EXPERTS, config

ONE_DEVICE = f"--xla_force_host_platform_device_count=1 {quick_compiling.XLA_FLAGS}"
ROOT = Path(__file__).resolve().parents[2]
WINDOWED = dataclasses.replace(
    EXPERTS,
    layer_kinds=tuple(
        dataclasses.replace(kind, window=window)
        for kind, window in zip(EXPERTS.kinds(), (7, None), strict=True)
    ),
)


def test_the_model_that_is_checked_has_one_layer_of_each_kind():
    """Two windows; and experts in every third layer: with each window a layer of both kinds."""
    asked = config(Mesh(fsdp=8))
    assert bench._small(asked, WINDOWED)[1].layer_kinds == WINDOWED.kinds()[:2]
    kinds = WINDOWED.kinds() * 3
    some = dataclasses.replace(WINDOWED, num_layers=6, layer_kinds=kinds, dense_layers=(0, 1, 3, 4))
    small = bench._small(asked, some)[1]
    found = [(k.window, small.has_experts(i)) for i, k in enumerate(small.kinds())]
    assert found == [(7, False), (None, False), (7, True), (None, True)]


def failed(model, sizes, until):
    """The laws that fail up to the first that has this word: those after it take long."""
    seen = set()
    with tempfile.TemporaryDirectory() as folder:
        for check in laws.measured(config(sizes), model, Path(folder)):
            if not check.passed:
                seen.add(check.law)
            if until in check.law:
                break
    return seen


def test_sound_parts_pass_every_law(tmp_path):
    """Of experts behind windows; the two processes below measure a dense model.

    Those in the run's dtype are measured on a dense model too, by test_run_dtype.py.
    """
    asked = config(Mesh(fsdp=2, context=2, expert=2))
    found = list(itertools.islice(laws.measured(asked, WINDOWED, tmp_path), 7))
    assert [check.law.split()[2] for check in found if "neighbours" in check.law] == [
        "blocked:",
        "xla:",
    ]
    assert "restart" in found[-1].law and all(check.passed for check in found), found
    assert found[-1].ran_with == "float32, xla, tiled, save_projections"
    assert found[3].ran_with == "bfloat16, blocked, tiled, save_projections"


def measured_on_one_device(made, rows, mesh, microbatches, measure=laws._gradients):
    """Of gradients that no mesh and no micro-batches change, those of one device."""
    del mesh, microbatches
    return measure(made, rows, mesh_lib.single_device_mesh(), 1)


def test_a_fault_of_attention_is_seen(monkeypatch):
    """One that lets a token see the row's other conversations, and one that shows it the future."""
    sound = attend.attend
    monkeypatch.setattr(laws, "_gradients", measured_on_one_device)

    def without_segments(q, kv, visibility, form):
        ones_BT = jnp.ones_like(visibility.q_segments_BT)
        return sound(q, kv, Visibility(ones_BT, ones_BT), form)

    monkeypatch.setattr(attend, "attend", without_segments)
    seen = failed(tiny.SETTINGS, Mesh(fsdp=8), "neighbours")
    assert any("neighbours" in law for law in seen) and any("packed" in law for law in seen)

    def sees_all(q, kv, visibility, form):
        behind = dataclasses.replace(visibility, first_query=kv.k_BSKH.shape[1])
        return sound(q, kv, behind, form)

    monkeypatch.setattr(attend, "attend", sees_all)
    monkeypatch.setattr(laws, "_gradients", lambda *_: 1.0)  # seen above
    assert any("later ones" in law for law in failed(tiny.SETTINGS, Mesh(fsdp=8), "later ones"))


@pytest.mark.parametrize(("difference", "code"), [(0.5, 0), (2.0, 70), (float("nan"), 70)])
def test_the_program_says_of_each_law_whether_it_holds(monkeypatch, difference, code):
    """The laws themselves are measured above, and by two processes together below."""
    checks = [laws.Check("one", "x", 0.5, 1.0), laws.Check("another", "x", difference, 1.0)]
    monkeypatch.setattr(laws, "measured", lambda config, model, folder, teacher: iter(checks))
    done = programs.tool("selfcheck", f"--config={ROOT}/configs/debug.py", "--num_processes=1")
    assert done.returncode == code and "configs/debug_model on 8 x cpu" in done.stdout
    verdicts = [row.split()[-2] for row in done.stdout.splitlines() if " 1e+00 " in row]
    assert verdicts == ["passed", "FAILED" if code else "passed"]


@pytest.mark.slow  # one process measures each law above; test_distributed joins several
def test_two_processes_measure_together_and_one_speaks(tmp_path):
    """The restart goes through one directory that both see."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, ROOT / "tools" / "selfcheck.py", f"--scratch={tmp_path}"]
    command += [f"--config={ROOT}/configs/debug.py", "--config.data.sequence_length=64"]
    command += ["--config.model.dtype=bfloat16"]
    command += [f"--coordinator_address={address}", "--num_processes=2"]
    devices = {"XLA_FLAGS": ONE_DEVICE, "PYTHONPATH": str(ROOT)}
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([*command, f"--process_id={i}"], env=os.environ | devices, **pipes)
        for i in range(2)
    ]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0].count("passed") == 9 and said[0][0].count("remat auto: only") == 1
    assert "on 2 x cpu" in said[0][0]
    assert "passed" not in said[1][0] and not list(tmp_path.iterdir())


def test_a_mean_of_means_is_seen(monkeypatch):
    sound = step.gradient_sums

    def mean_of_means(recipe, params, batch, teacher):
        totals, gradients = sound(recipe, params, batch)
        if recipe.microbatches > 1:
            half = dataclasses.replace(recipe, microbatches=1)
            parts = [jax.tree.map(lambda rows, i=i: rows[i::2], batch) for i in range(2)]
            each = [sound(half, params, part) for part in parts]
            gradients = jax.tree.map(
                lambda a, b: (
                    (a / each[0][0][0].weight + b / each[1][0][0].weight) * totals[0].weight / 2
                ),
                each[0][1],
                each[1][1],
            )
        return totals, gradients

    monkeypatch.setattr(step, "gradient_sums", mean_of_means)
    seen = failed(tiny.SETTINGS, Mesh(fsdp=4), "micro-batches")
    assert any("micro-batches" in law for law in seen)
