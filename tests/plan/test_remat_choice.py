"""remat "auto": the fastest policy that fits is taken, by all processes, and found only once."""

import dataclasses
import json
import types
from typing import Any
from unittest import mock

import jax
import pytest
import tiny

from jaxsft import loop
from jaxsft.config import Mesh
from jaxsft.devices import distributed
from jaxsft.model.remat import KEPT, candidates
from jaxsft.plan import memory, relief, remat_choice
from jaxsft.rundir import identity
from jaxsft.training import mesh_program
from jaxsft.training.parameters import Way
from jaxsft.training.too_large import TooLarge
from tests.training.test_mesh_fit import config

ASKED = config(Mesh(data=1, fsdp=1))
POLICIES = list(candidates("auto"))
FIGURE = {policy: (9 - n) * memory.GIB for n, policy in enumerate(POLICIES)}  # that each needs


def asked(remat):
    return dataclasses.replace(ASKED, model=dataclasses.replace(ASKED.model, remat=remat))


@pytest.fixture(scope="module")
def built():
    mesh = mesh_program.checked_mesh(ASKED, tiny.SETTINGS, jax.devices()[:1])
    return mesh_program.make_program(ASKED, tiny.SETTINGS, 1, mesh)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The policies that were compiled, in a place without memories; each needs its FIGURE."""
    tried = []

    def compiles(program, _):
        tried.append(program.remat)
        return program.remat

    def of(policy, limit_bytes):
        return memory.Memory(
            arguments_bytes=FIGURE.get(policy, 0),
            output_bytes=0,
            donated_bytes=0,
            temporaries_bytes=0,
            limit_bytes=limit_bytes,
        )

    monkeypatch.setattr(mesh_program, "compile_train_step", compiles)
    monkeypatch.setattr(memory, "of", of)
    monkeypatch.setattr(remat_choice, "cache_root", lambda _: tmp_path)
    return tried


def choose(built, limit_bytes, config=ASKED):
    said = []
    return remat_choice.choose(built, config, limit_bytes, said.append), said


def test_the_policies_of_auto_are_all_that_name_what_they_keep():
    assert POLICIES == ["save_projections", "save_attention", "save_context", "full"]
    assert all(list(candidates(policy)) == [policy] for policy in KEPT)
    assert ASKED.model.remat == "auto"


def test_a_program_has_the_products_of_its_policy(built):
    """The more is forgotten, the more of them are formed twice."""
    found = []
    for policy in POLICIES:
        program = mesh_program.with_way(built, ASKED, Way(policy, 1))
        assert program.remat == policy
        found.append(mesh_program.lower_train_step(program, ASKED).as_text().count("dot_general"))
    assert found == sorted(set(found)), found


@pytest.mark.parametrize("number", range(len(POLICIES)))
def test_the_fastest_that_fits_is_taken(built, compiled, number):
    chosen, said = choose(built, FIGURE[POLICIES[number]])
    assert chosen.program.remat == chosen.compiled == POLICIES[number] and chosen.error is None
    assert compiled == POLICIES[: number + 1] and len(said) == number + 1
    limit = f"{9 - number}.0"
    others = "".join(f"; {POLICIES[n]} needs {9 - n}.0 GiB of {limit}" for n in range(number))
    assert chosen.line == f"{POLICIES[number]} (auto: the fastest that fits{others})"


def test_the_next_start_compiles_one_program(built, compiled):
    first, _ = choose(built, FIGURE["save_context"])
    del compiled[:]
    again, _ = choose(built, FIGURE["save_context"])
    assert compiled == ["save_context"] and again.line == first.line
    del compiled[:]
    assert choose(built, FIGURE["save_attention"])[0].program.remat == "save_attention"
    assert compiled == POLICIES[:2]  # other devices, of which nothing is known


def test_a_memory_of_another_program_does_not_count(built, compiled):
    choose(built, FIGURE["save_context"])
    del compiled[:]
    other = dataclasses.replace(ASKED, data=dataclasses.replace(ASKED.data, sequence_length=16))
    choose(built, FIGURE["save_context"], other)
    assert compiled == POLICIES[:3]


@pytest.mark.parametrize("text", ["{", "[]", "7", '{"full": "x"}', '{"none": "x"}', "\udcff"])
def test_a_memory_that_can_not_be_read_is_made_again(built, compiled, tmp_path, text):
    choose(built, FIGURE["save_attention"])
    (path,) = (tmp_path / "remat").iterdir()
    whole = path.read_text()
    path.write_text(text, errors="surrogateescape")
    del compiled[:]
    chosen, _ = choose(built, FIGURE["save_attention"])
    assert compiled == POLICIES[:2] and chosen.program.remat == "save_attention"
    assert path.read_text() == whole


def test_a_memory_of_all_policies_leaves_the_last_to_be_tried(built, compiled, tmp_path):
    choose(built, FIGURE["save_attention"])
    (path,) = (tmp_path / "remat").iterdir()
    path.write_text(json.dumps(dict.fromkeys(POLICIES, "x")))
    assert choose(built, FIGURE["save_attention"])[0].program.remat == "save_attention"


def test_a_memory_that_can_not_be_kept_is_told(built, compiled, tmp_path):
    (tmp_path / "remat").write_text("a file")
    chosen, said = choose(built, FIGURE["save_attention"])
    assert chosen.program.remat == "save_attention"
    assert f"{tmp_path}/remat/" in said[1] and "the next start compiles these again" in said[1]


def test_without_a_limit_the_first_is_taken(built, compiled):
    chosen, _ = choose(built, None)
    assert compiled == POLICIES[:1] and "memory holds is not known" in chosen.line


def test_a_policy_that_is_named_is_the_only_one(compiled):
    one = asked("none")
    mesh = mesh_program.checked_mesh(one, tiny.SETTINGS, jax.devices()[:1])
    chosen, _ = choose(mesh_program.make_program(one, tiny.SETTINGS, 1, mesh), 1, one)
    assert compiled == ["none"] and chosen.line == "none (config.model.remat)"


def test_what_the_compiler_refuses_does_not_fit(built, compiled, monkeypatch):
    compiles = mesh_program.compile_train_step

    def refusing(program, one):
        if program.remat == POLICIES[0]:
            raise TooLarge("said by the compiler")
        return compiles(program, one)

    monkeypatch.setattr(mesh_program, "compile_train_step", refusing)
    chosen, _ = choose(built, None)
    assert chosen.program.remat == POLICIES[1]
    assert chosen.why.endswith("; save_projections is too large for the compiler")


@pytest.mark.parametrize("position", [0, 1])
def test_all_processes_take_what_fits_on_each(built, compiled, monkeypatch, position):
    """The other one, which has less memory, refuses a policy that this one has room for."""
    gather = distributed.gather
    answers = iter(["needs 9.0 GiB of 8.0", None])

    def with_other(value):
        if "refused" not in value:
            return gather(value)
        everyone = gather(value)
        everyone.insert(position, {"refused": next(answers)})
        return everyone

    monkeypatch.setattr(distributed, "gather", with_other)
    chosen, _ = choose(built, 2**60)
    assert compiled == POLICIES[:2] and chosen.program.remat == POLICIES[1]
    assert chosen.why.endswith("; save_projections needs 9.0 GiB of 8.0")


def test_where_even_the_last_does_not_fit_the_rest_is_proposed(built, compiled, monkeypatch):
    limit = FIGURE["full"] - 1
    seen = []

    def fits(one):
        seen.append(one.model.remat)
        return one.train.batch_size < 8

    monkeypatch.setattr(relief, "compiling", lambda *_: fits)
    with pytest.raises(TooLarge, match=r"needs 6\.0 GiB .* What fits.*: config.train.batch_size=7"):
        relief.compile_step(built, ASKED, limit, [].append)
    assert compiled == POLICIES and set(seen) == {"full"}
    chosen, _ = choose(built, limit)
    assert chosen.why.startswith("auto: the one that needs the least; save_projections needs 9.0")


def test_another_policy_than_before_goes_on_with_the_same_run(built):
    identities = [identity.identity(asked(policy)) for policy in ("auto", "none", "full")]
    assert identities[1:] == identities[:-1]
    other = mesh_program.with_way(built, ASKED, Way("full", 1))
    states = [mesh_program.abstract_state(one).changing for one in (built, other)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    assert jax.tree.leaves(states[0]) == jax.tree.leaves(states[1])


def test_the_log_counts_the_work_of_the_policy_that_was_taken(built, monkeypatch):
    """Where the config says "auto"; a run of no steps."""
    taken = []
    monkeypatch.setattr(loop, "StepLog", lambda *_, remat, **__: taken.append(remat))
    monkeypatch.setattr(loop, "StepRows", mock.MagicMock())
    monkeypatch.setattr(loop, "saved_of", lambda state: state)
    program = mesh_program.with_way(built, ASKED, Way("save_context", 1))
    anything: Any = mock.MagicMock()
    job: Any = mock.MagicMock(program=program, num_steps=0)
    state: Any = types.SimpleNamespace(step=0, skipped_steps=0, trained={})
    termination: Any = mock.MagicMock(why_of_any=lambda: "")
    loop.train(ASKED, job, anything, state, anything, anything, anything, termination)
    assert taken == ["save_context"]
