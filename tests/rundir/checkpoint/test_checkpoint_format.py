"""What a version wrote, every later one reads: a checkpoint of each format lies beside this test.

A new format has a folder of its own, which this file makes when it is run as a program; those that
are there are never made again.
"""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsft.data.cache.manifest import TrainedOn
from jaxsft.errors import BAD_MODEL, CheckpointError
from jaxsft.rundir import resume
from jaxsft.rundir.checkpoint import notes as notes_file
from jaxsft.rundir.checkpoint import store as stores
from jaxsft.rundir.checkpoint.notes import Best, Change, Notes, notes_json
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.training.step import Changing
from tests.faults import fault

HERE = Path(__file__).parent
FORMATS = {1: HERE / "format_1"}
STEP = 6
NOTES = Notes(
    identity={"config.train.seed": 1, "config.optim.peak_lr": 1e-5, "config.lora": None},
    template_date="2026-01-31",
    trained_on=TrainedOn("f0", "{{ messages }}", [2]),
    best=Best("eval/x/loss", 3, 2.5, 2.5, 1, 6),
    frozen={"params.a": 7},
    changes=[Change("config.optim.peak_lr", 1e-4, 1e-5, 3)],
)


def state() -> Changing:
    """A state of every dtype that one has, without chance."""

    def numbers(dtype, *shape):
        return jnp.asarray(np.arange(np.prod(shape)).reshape(shape) % 113 - 40, dtype)

    params = {
        "layers": {"w_LDF": numbers(jnp.float32, 2, 3, 5) / 8},
        "embed_VD": numbers(jnp.bfloat16, 7, 3) / 4,
        "codes_F": numbers(jnp.int8, 9),
    }
    trained = {name: params[name] for name in ("layers", "embed_VD")}
    opt_state = jax.tree.map(lambda leaf: leaf + 1, optax.adam(1e-3).init(trained))
    return Changing(jnp.int32(STEP), params, opt_state, jnp.int32(2))


def abstract() -> Changing:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state()
    )


@pytest.fixture(params=FORMATS.values(), ids=FORMATS)
def directory(request, tmp_path):
    return shutil.copytree(request.param, tmp_path / "checkpoints")


def assert_state(found):
    jax.tree.map(np.testing.assert_array_equal, found, state())
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(state())]


def test_a_checkpoint_of_every_format_is_read(directory):
    store = CheckpointStore(directory, keep=2)
    assert store.steps() == [STEP]
    found = store.notes(STEP)
    assert found == dataclasses.replace(NOTES, digests=found.digests)
    assert_state(store.restore(STEP, abstract()))


def test_a_run_goes_on_from_a_checkpoint_of_every_format(directory, monkeypatch):
    monkeypatch.setattr(resume.mesh_program, "abstract_state", lambda program: None)
    monkeypatch.setattr(resume, "saved_of", lambda _: abstract())
    said = []
    job = types.SimpleNamespace(program=None, num_steps=9)
    store = CheckpointStore(directory, keep=1)
    found = resume.resume(store, job, NOTES, lambda topic, line: said.append(line))  # pyright: ignore
    assert_state(found)
    assert said == [f"from step {STEP} of 9"]
    store.save(9, state(), NOTES)
    store.wait()
    assert store.steps() == [9]


@fault(
    "checkpoints",
    "a checkpoint that a later version of jaxsft saved",
    "refused, with both formats; nothing is touched, and no older one is taken",
    lost="nothing",
    code=66,
)
def test_a_later_format_is_refused_and_no_damage(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=2)
    store.save(3, state(), NOTES)
    store.wait()
    with monkeypatch.context() as patch:
        patch.setattr(notes_file, "FORMAT", 2)
        store.save(STEP, state(), NOTES)
        store.wait()
    said = rf"/{STEP}: has format 2, .* reads formats up to 1: a newer one saved it"
    for read in (
        lambda: store.notes(STEP),
        lambda: store.restore(STEP, abstract()),
        lambda: resume.refuse_changed(store, NOTES.identity),
    ):
        with pytest.raises(CheckpointError, match=said) as raised:
            read()
        assert raised.value.exit_code == BAD_MODEL and type(raised.value) is CheckpointError
    assert store.steps() == [3, STEP]


def test_a_number_that_is_none_is_damage(tmp_path, monkeypatch):
    """Nor is one that was changed a later version: the notes' checksum is over it too."""
    monkeypatch.setattr(stores, "RETRY_SECONDS", ())
    store = CheckpointStore(tmp_path, keep=2)
    changed = notes_json(NOTES) | {"digests": {}, "format": 3}
    monkeypatch.setattr(stores, "notes_json", lambda notes: changed)
    store.save(3, state(), NOTES)
    store.wait()
    with pytest.raises(stores.Damaged, match="differs from what was saved"):
        store.notes(3)


def main() -> None:
    folder = HERE / f"format_{notes_file.FORMAT}"
    assert not folder.exists(), f"{folder} is there, and is what others have on their disks"
    store = CheckpointStore(folder, keep=2)
    store.save(STEP, state(), NOTES)
    store.wait()
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(json.dumps({"folder": str(folder), "bytes": total}))


if __name__ == "__main__":
    main()
