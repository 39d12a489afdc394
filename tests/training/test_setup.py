"""Batches of evaluation that fit the rows there are."""

import dataclasses
import types
from typing import Any

import jax
import pytest

from jaxsft.config import Eval, Mesh
from jaxsft.devices.mesh import make_mesh
from jaxsft.training import job
from tests.training.test_mesh_fit import config


@pytest.mark.parametrize(
    ("num_rows", "expected"), [((3, 1), 4), ((9,), 12), ((500, 2), 64), ((), 4)]
)
def test_a_batch_of_a_small_holdout_is_no_larger_than_its_rows(monkeypatch, num_rows, expected):
    """Over 4 devices, with 64 rows in a batch of training."""
    sets = {f"set{n}": rows for n, rows in enumerate(num_rows)}

    def planned(rows: int, *_, **__):
        return types.SimpleNamespace(num_rows=rows)

    monkeypatch.setattr(job, "epochs_of", planned)
    mesh = make_mesh(Mesh(data=1, fsdp=4), jax.devices()[:4])
    data: Any = types.SimpleNamespace(eval=sets)
    assert job._eval_batch_size(config(batch_size=64), data, mesh) == expected


@pytest.mark.parametrize(("asked", "said"), [(None, False), (12, False), (16, True)])
def test_a_larger_batch_of_evaluation_is_told_what_would_hold_all(asked, said):
    one = dataclasses.replace(config(), eval=Eval(batch_size=asked))
    mesh = make_mesh(Mesh(data=1, fsdp=4), jax.devices()[:4])
    batches = types.SimpleNamespace(epochs=types.SimpleNamespace(num_rows=9))
    plan: Any = types.SimpleNamespace(
        eval_batches={"held": batches}, program=types.SimpleNamespace(mesh=mesh)
    )
    found = job.eval_notes(one, plan)
    assert bool(found) == said
    assert not said or "config.eval.batch_size=16 is more than the 9 packed rows" in found[0]
    assert not said or found[0].endswith("12 holds all of them")
