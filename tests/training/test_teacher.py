"""A teacher is opened, held against the student, and has the student's rows of the vocabulary."""

import dataclasses
import json
import types
from typing import Any

import jax
import numpy as np
import pytest

from jaxsft.config import Distil
from jaxsft.convert import other_rows, pretrained
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError, ConversionError, MeshError
from jaxsft.model import state
from jaxsft.training import teacher
from tests.programs import ROOT
from tests.test_distil_run import random_model
from tests.training.test_mesh_fit import config

DEBUG = ROOT / "configs" / "debug_model"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("teacher") / "model", 3)


def asked(directory, **distil):
    one = config()
    model = dataclasses.replace(one.model, source=str(DEBUG), dtype="float32")
    return dataclasses.replace(one, model=model, distil=Distil(teacher=str(directory), **distil))


def opened(directory, student=None, **distil):
    base = pretrained.open_pretrained(DEBUG, weights=False).settings
    return teacher.open_teacher(asked(directory, **distil), student or base)


def logits(base, tokens):
    graphdef, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh_lib.single_device_mesh())
    params = pretrained.read_params(base, placement, shapes)
    return np.asarray(jax.jit(state.model_of(graphdef, params))(tokens))


@pytest.mark.parametrize("more", [-24, 64])
def test_other_rows_change_no_logit_of_a_token_that_is_there(directory, more):
    base = pretrained.open_pretrained(directory)
    rows = base.settings.vocab_size + more
    changed = other_rows.with_rows(base, rows)
    tokens = np.arange(8, dtype=np.int32)[None]
    before, after = logits(base, tokens), logits(changed, tokens)
    kept = min(rows, base.settings.vocab_size)
    assert after.shape[-1] == rows and changed.settings.num_tokens == kept
    # Products of another size may add up in another order.
    np.testing.assert_allclose(after[..., :kept], before[..., :kept], atol=1e-6)
    assert other_rows.with_rows(base, base.settings.vocab_size) is base


def test_tokens_are_compared_that_both_models_have_and_the_tokenizer_names(directory):
    base = pretrained.open_pretrained(DEBUG, weights=False).settings
    assert opened(directory).num_tokens == base.vocab_size == 512
    wider = dataclasses.replace(base, vocab_size=640)
    found = opened(directory, wider)
    assert found.num_tokens == 512 and found.settings.vocab_size == 640
    padded = dataclasses.replace(base, num_padding=12)
    assert opened(directory, padded).num_tokens == 500
    assert teacher.open_teacher(config(), base) is None


def test_its_weights_are_kept_as_asked_for(directory):
    over = mesh_lib.single_device_mesh()
    for dtype, kept in {"source": "bfloat16", "float32": "float32"}.items():
        one = asked(directory, dtype=dtype)
        placed = teacher.declare(one, opened(directory, dtype=dtype), over)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(teacher.read(placed))} == {kept}
        assert f"kept in {kept}; read only" in teacher.notes(one, placed)[0]


def test_words_that_nothing_reads_are_said():
    cache: Any = types.SimpleNamespace(widths=np.array([0, 3, 1]))
    plain = config()
    (note,) = teacher.unread_notes(plain, cache)
    assert note.startswith("note: 2 examples have teacher_ids, which are not read: config.distil")
    stored = dataclasses.replace(plain, distil=Distil(top_k=2))
    assert teacher.unread_notes(stored, cache) == []
    cache.widths[:] = 0
    assert teacher.unread_notes(plain, cache) == []


def renamed_token(directory, to):
    """A copy of the model whose tokenizer calls token 300 otherwise."""
    for file in directory.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    written = json.loads((to / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = written["model"]["vocab"]
    (old,) = (token for token, index in vocabulary.items() if index == 300)
    written["model"]["merges"] = [
        pair for pair in written["model"]["merges"] if old not in ("".join(pair), *pair)
    ]
    vocabulary["other"] = vocabulary.pop(old)
    (to / "tokenizer.json").write_text(json.dumps(written), encoding="utf-8")
    return to, old


def test_other_tokens_are_refused_by_the_first_that_differs(directory, tmp_path):
    changed, old = renamed_token(directory, tmp_path)
    with pytest.raises(ConversionError) as refused:
        opened(changed)
    assert f"config.distil.teacher={changed}: token 300 is 'other' to the teacher and {old!r}" in (
        str(refused.value)
    )


@pytest.mark.parametrize(
    ("distil", "kind", "match"),
    [
        ({"top_k": 513}, ConfigError, "config.distil.top_k=513: there are 512 tokens"),
        ({"teacher": "/none"}, ConversionError, "^config.distil.teacher=/none: no such file or"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(directory, distil, kind, match):
    base = pretrained.open_pretrained(DEBUG, weights=False).settings
    one = asked(directory)
    one = dataclasses.replace(one, distil=dataclasses.replace(one.distil, **distil))
    with pytest.raises(kind, match=match):
        teacher.open_teacher(one, base)


def test_rows_that_are_too_long_for_the_teacher_are_refused(directory):
    base = pretrained.open_pretrained(DEBUG, weights=False).settings
    one = asked(directory)
    longer = dataclasses.replace(one.data, sequence_length=base.max_positions + 1)
    longer = dataclasses.replace(one, data=longer)
    with pytest.raises(ConfigError, match=f"at most {base.max_positions} positions, config.data"):
        teacher.open_teacher(longer, base)


def test_a_mesh_that_does_not_split_the_teacher_says_so(directory):
    found = opened(directory)
    heads = dataclasses.replace(found.settings, num_heads=3, num_kv_heads=1)
    over = mesh_lib.make_mesh(dataclasses.replace(config().mesh, fsdp=4, tensor=2))
    with pytest.raises(
        MeshError, match=f"^config.distil.teacher={directory}: config.mesh.tensor=2"
    ):
        teacher.declare(asked(directory), dataclasses.replace(found, settings=heads), over)
