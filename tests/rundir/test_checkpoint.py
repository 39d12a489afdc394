"""Checkpoints: what is read is what was saved, or an error says why."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxsft import config
from jaxsft.data.cache.manifest import TrainedOn
from jaxsft.devices import digest, mesh
from jaxsft.errors import CheckpointError
from jaxsft.rundir.checkpoint import files
from jaxsft.rundir.checkpoint import store as stores
from jaxsft.rundir.checkpoint.notes import NOTES_FILE, Notes, notes_json
from jaxsft.rundir.checkpoint.store import CheckpointStore, Damaged
from jaxsft.training.step import Changing

NOTES = Notes({"config.train.seed": 1}, "2026-01-31", TrainedOn("f0", "{{ messages }}", [2]))


def make_state(step=3, width=16):
    rng = np.random.default_rng(step)
    params = {"a": {"w_AB": jnp.asarray(rng.normal(size=(8, width)), jnp.float32)}}
    opt_state = optax.adam(1e-3).init(params)
    opt_state = jax.tree.map(lambda leaf: leaf + 1, opt_state)
    return Changing(jnp.int32(step), params, opt_state, jnp.int32(0))


def abstract(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    yield store


def test_restores_bit_for_bit_with_its_notes(store):
    state = make_state()
    store.save(3, state, NOTES)
    store.wait()
    assert store.steps() == [3]
    digests = {name: int(digest.digests(leaf)) for name, leaf in digest.named(state).items()}
    assert store.notes(3) == dataclasses.replace(NOTES, digests=digests)
    tiny.assert_trees_equal(store.restore(3, abstract(state)), state)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StateOfBefore:
    """As the step's state was saved while there was nothing else in it."""

    step: jax.Array
    params: Any
    opt_state: Any
    skipped_steps: jax.Array


def test_checkpoints_of_before_parameters_could_be_frozen_are_read(store):
    state = make_state()
    before = StateOfBefore(state.step, state.params, state.opt_state, state.skipped_steps)
    store.save(3, before, Notes())
    store.wait()
    assert list(store.notes(3).digests) == list(digest.named(state))
    tiny.assert_trees_equal(store.restore(3, abstract(state)), state)
    tiny.assert_trees_equal(store.restore_part(3, "params", abstract(state.params)), state.params)


def without(values, *names):
    return {name: value for name, value in values.items() if name not in names}


@pytest.mark.parametrize(
    ("as_written", "read"),
    [
        (lambda values: without(values, "checksum"), {}),
        (lambda values: without(values, "checksum", "template_date"), {"template_date": None}),
        (
            lambda values: without(values, "checksum", "template_date", "data"),
            {"template_date": None, "trained_on": TrainedOn()},
        ),
        (lambda values: without(values, "checksum", "identity"), {"identity": {}}),
        (lambda values: without(values, "checksum") | {"of_later": [1]}, {}),
    ],
    ids=["no seal", "no date", "no data", "no identity", "one more"],
)
def test_checkpoints_with_notes_of_another_version_are_read(store, monkeypatch, as_written, read):
    state = make_state()
    monkeypatch.setattr(stores, "notes_json", lambda notes: as_written(notes_json(notes)))
    store.save(3, state, NOTES)
    store.wait()
    found = store.notes(3)
    assert found == dataclasses.replace(NOTES, digests=found.digests, **read)
    tiny.assert_trees_equal(store.restore(3, abstract(state)), state)


def test_notes_have_the_keys_of_the_first_version():
    """Checkpoints outlive the code that wrote them, and this text is theirs."""
    values = notes_json(dataclasses.replace(NOTES, digests={"step": 3}))
    data = {"fingerprint": "f0", "template": "{{ messages }}", "end_of_turn_ids": [2]}
    expected = {
        **{"format": 1, "identity": {"config.train.seed": 1}, "template_date": "2026-01-31"},
        **{"data": data, "digests": {"step": 3}, "checksum": 235707796},
    }
    assert json.dumps(values) == json.dumps(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "has no notes of jaxsft") for text in ("[]", "{}", '{"custom_metadata": null}')),
        ('{"custom_metadata": {"identity": {}}}', "differs from what was saved"),
    ],
)
def test_a_step_of_other_programs_has_no_notes(store, tmp_path, monkeypatch, text, said):
    monkeypatch.setattr(stores, "RETRY_SECONDS", ())
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    (tmp_path / "checkpoints" / "3" / NOTES_FILE).write_text(text)
    with pytest.raises(Damaged, match=f"{NOTES_FILE} {said}"):
        store.notes(3)


def test_keeps_the_newest(store):
    for step in (1, 2, 3):
        store.save(step, make_state(step), Notes())
    store.wait()
    assert store.steps() == [2, 3]


def test_restores_on_another_mesh(store):
    over = mesh.make_mesh(config.Mesh(fsdp=8))
    state = make_state()
    store.save(3, state, Notes())
    store.wait()
    split = mesh.sharding(over, "embed", None)
    everywhere = mesh.sharding(over)
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=split if leaf.shape else everywhere
        ),
        state,
    )
    restored = store.restore(3, wanted)
    assert restored.params["a"]["w_AB"].sharding == split
    np.testing.assert_array_equal(restored.params["a"]["w_AB"], state.params["a"]["w_AB"])


def test_parameters_alone_can_be_read(store):
    state = make_state()
    store.save(3, state, Notes())
    store.wait()
    part = store.restore_part(3, "params", abstract(state).params)
    tiny.assert_trees_equal(part, state.params)
    with pytest.raises(CheckpointError, match=r"params\.a\.w_AB was saved"):
        store.restore_part(3, "params", {"b": abstract(state).params["a"]})


def test_parameters_alone_leave_the_moments_on_disk(store):
    """Moments are twice the parameters; counted are the bytes that this process reads."""
    state, rng = make_state(width=2**17), np.random.default_rng(0)
    noise = jax.tree.map(  # which can't be compressed
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), state.opt_state
    )
    state = dataclasses.replace(state, opt_state=noise)
    store.save(3, state, Notes())
    store.wait()

    def bytes_read() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("rchar")))

    before, arrays = bytes_read(), files.bytes_read()
    store.restore_part(3, "params", abstract(state).params)
    between = bytes_read()
    store.restore(3, abstract(state))
    part, whole = between - before, bytes_read() - between
    num_bytes = state.params["a"]["w_AB"].nbytes
    assert 0.8 * num_bytes < part < 1.3 * num_bytes < 2 * num_bytes < whole
    assert files.bytes_read() - arrays > 3 * num_bytes


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: make_state(width=17), r"w_AB was saved as \(\(8, 16\), .* and is \(\(8, 17\)"),
        (
            lambda s: dataclasses.replace(s, params={"b": s.params["a"]}),
            r"params\.a\.w_AB was .* is absent in this",
        ),
        (
            lambda s: jax.tree.map(lambda leaf: leaf.astype(jnp.int8), s),
            r"'int8'\) in this run",
        ),
    ],
)
def test_another_form_is_refused_before_reading(store, change, match):
    state = make_state()
    store.save(3, state, Notes())
    store.wait()
    with pytest.raises(CheckpointError, match=match):
        store.restore(3, abstract(change(state)))


def test_half_made_steps_are_not_there(tmp_path):
    store = CheckpointStore(tmp_path, keep=5)
    for step in (1, 2):
        store.save(step, make_state(step), Notes())
    store.wait()

    (tmp_path / "3").mkdir()
    for name in ("jaxsft_files.json", "commit_success.txt"):  # as a deletion begins
        (tmp_path / "2" / name).unlink()
    again = CheckpointStore(tmp_path, keep=5)
    assert again.steps() == [1]


def test_a_flipped_bit_is_found(store, tmp_path):
    state = make_state(width=4096)
    store.save(3, state, Notes())
    store.wait()
    data = max((tmp_path / "checkpoints" / "3").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(Damaged, match="checkpoints/3: "):
        store.restore(3, abstract(state))


# Orbax leaves the other leaves' reads, which failed too, without anyone to await them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_missing_data_names_the_cause(store, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "RETRY_SECONDS", ())
    store.save(3, make_state(), Notes())
    store.wait()
    for data in (tmp_path / "checkpoints" / "3").rglob("d/*"):
        data.unlink()
    with pytest.raises(Damaged, match="files are missing") as error:
        store.restore(3, abstract(make_state()))
    assert "incompatible handler" not in str(error.value)


def test_a_save_that_fails_is_an_error(store, tmp_path):
    store.save(5, make_state(5), Notes())
    store.wait()
    with pytest.raises(CheckpointError, match="/5"):
        store.save(5, make_state(5), Notes())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_digest_changes_with_every_single_bit(dtype):
    array = np.asarray(jnp.arange(1, 7, dtype=dtype).reshape(2, 3))
    original = int(digest.digests(jnp.asarray(array)))
    for place in range(array.nbytes * 8):
        flipped = bytearray(array.tobytes())
        flipped[place // 8] ^= 1 << place % 8
        changed = np.frombuffer(bytes(flipped), array.dtype).reshape(array.shape)
        assert int(digest.digests(jnp.asarray(changed))) != original, place
    assert int(digest.digests(jnp.asarray(array[::-1].copy()))) != original
