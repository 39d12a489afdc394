"""What a run starts from, and what it says of it before anything is computed."""

import contextlib
import dataclasses
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from jaxsft.config import Source
from jaxsft.errors import ConfigError
from jaxsft.training import first_state, inputs, mesh_program
from tests.training.test_mesh_fit import config

DEBUG_MODEL = Path(__file__).resolve().parents[2] / "configs" / "debug_model"


def of_debug_model(**model: Any):
    plain = config()
    changed = dataclasses.replace(plain.model, source=str(DEBUG_MODEL), weights="random", **model)
    return dataclasses.replace(plain, model=changed)


def test_rows_longer_than_the_model_are_refused():
    long = of_debug_model()
    long = dataclasses.replace(long, data=dataclasses.replace(long.data, sequence_length=1025))
    with pytest.raises(ConfigError, match="sequence_length=1025: .* for at most 1024 positions"):
        inputs.open_model(long, lambda *_: None)


def test_new_tokens_and_padding_are_said_with_their_rows():
    said: list[tuple[str, str]] = []
    wanted = of_debug_model(new_tokens=("<|tool|>",), pad_vocab_to=64)
    base = inputs.open_model(wanted, lambda topic, line: said.append((topic, line)))
    plain = inputs.open_model(of_debug_model(), lambda *_: None)
    assert base.settings.vocab_size % 64 == 0 and base.settings.vocab_size >= 513
    rows = f"{plain.settings.vocab_size} rows before, {base.settings.vocab_size} now"
    assert any("'<|tool|>' is 512" in line for _, line in said), said
    assert any(rows in line for _, line in said), said


def test_processes_compare_the_data_of_each_set():
    def cache(name):
        return types.SimpleNamespace(fingerprint=name)

    data: Any = types.SimpleNamespace(train=cache("a"), eval={"x": cache("b"), "y": cache("c")})
    assert inputs.data_facts(data) == {
        "the prepared training data": "a",
        "the prepared data of eval x": "b",
        "the prepared data of eval y": "c",
    }


def test_each_eval_source_has_a_cache_of_its_own(monkeypatch):
    made = []

    def prepare(sources, data, directory, count, num_tokens, make):
        made.append([source.path for source in sources])
        return made[-1]

    monkeypatch.setattr(inputs, "prepare", prepare)
    plain = of_debug_model()
    wanted = dataclasses.replace(
        plain,
        data=dataclasses.replace(
            plain.data,
            train=(Source(path="a.jsonl"), Source(path="b.jsonl")),
            eval=(Source(path="c.jsonl"), Source(path="d.jsonl", name="held")),
        ),
    )
    console: Any = types.SimpleNamespace(counting=lambda _: contextlib.nullcontext())
    base: Any = types.SimpleNamespace(settings=tiny.SETTINGS)
    found = inputs.prepare_data(wanted, base, console)
    assert found.train == ["a.jsonl", "b.jsonl"]
    assert found.eval == {"c": ["c.jsonl"], "held": ["d.jsonl"]}


def test_bfloat16_parameters_say_which_weights_will_hardly_move(monkeypatch):
    monkeypatch.setattr(first_state.pretrained, "rounding_notes", lambda *_: ["rounded"])
    base: Any = None
    assert first_state.precision_notes(of_debug_model(), base) == []
    rounded, hint = first_state.precision_notes(of_debug_model(parameter_dtype="bfloat16"), base)
    assert rounded == "note: rounded"
    assert "peak_lr=0.001: weights above 0.51 " in hint


def test_the_first_state_is_at_step_0_with_random_parameters_or_those_of_another_run():
    wanted = of_debug_model()
    base = inputs.open_model(wanted, lambda *_: None)
    mesh = mesh_program.checked_mesh(wanted, base.settings)
    program = mesh_program.make_program(wanted, base.settings, 1, mesh)
    one: Any = types.SimpleNamespace(program=program)
    data: Any = None
    with jax.set_mesh(program.mesh):
        state = first_state.first_state(wanted, base, one, data, lambda *_: None)
        other = jax.tree.map(lambda leaf: leaf + 1, state.params)
        taken = first_state.first_state(wanted, base, one, data, lambda *_: None, other)
    tiny.assert_trees_equal(taken.params, other)
    for found in (state, taken):
        assert int(found.step) == 0 and int(found.skipped_steps) == 0
        assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(found.opt_state))
