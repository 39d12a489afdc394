"""The search compiles little, the best guesses first, and says what it left out and why."""

import dataclasses

import pytest
import tiny

from jaxsft.config import Mesh
from jaxsft.plan import estimate, memory, search, sizing, topology
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.memory import Memory
from jaxsft.training import too_large
from tests.training.test_mesh_fit import EXPERTS, config

ROWS = BatchLoad(tokens=1.0, supervised=1.0, segment_length=32.0)
MOST = sizing.REMATS[-1]


@pytest.fixture(scope="module")
def eight():
    return topology.open_topology("cpu:8")


@pytest.fixture
def compiled(monkeypatch):
    """Made-up estimates in the place of compilations, of as many GiB as `gib` says; and a log."""
    tried = []

    def make(config, model, where, rows, teacher=None):
        tried.append((config.mesh, config.model.remat, config.train.microbatches))
        needed = int(make.gib(*tried[-1]) * memory.GIB)
        if needed > 99 * memory.GIB:
            raise too_large.TooLarge("said by the compiler")
        return estimate.Estimate(
            mesh={},
            num_parameters=1,
            state_bytes={},
            memory=Memory(
                arguments_bytes=needed,
                output_bytes=0,
                donated_bytes=0,
                temporaries_bytes=0,
                limit_bytes=10 * memory.GIB,
            ),
            remat=config.model.remat,
            remat_why="a test",
            flops=1.0,
            matmul_flops=float(len(tried)),
            bytes_moved=1.0,
            collectives=(),
            seconds=None,
            mfu=None,
            tokens=1.0,
            expert_rows=None,
            compile_seconds=1.0,
        )

    monkeypatch.setattr(estimate, "make", make)
    monkeypatch.setattr(memory, "limit_here", lambda: 10 * memory.GIB)
    return make, tried


def run(eight, tries=100, minutes=1.0, **train):
    said = []
    asked = config(**({"batch_size": 16} | train))
    found = search.search(asked, tiny.SETTINGS, eight, ROWS, tries, minutes, said.append)
    return found, said


def test_what_fits_spares_all_that_is_slower_on_its_mesh(eight, compiled):
    make, tried = compiled
    make.gib = lambda mesh, remat, microbatches: 1
    found, said = run(eight)
    assert len(found) == len(tried) == len({mesh for mesh, *_ in tried}) > 3
    assert {(remat, parts) for _, remat, parts in tried} == {("save_projections", 1)}
    assert "the others are slower than one on the same mesh that fits" in said[-1]
    estimates = [one.estimate.matmul_flops for one in found]
    assert estimates == sorted(estimates)


@pytest.mark.parametrize("gib", [50, 100])  # too much for the chip; too much for the compiler
def test_what_cannot_fit_rules_out_all_that_needs_more_on_its_mesh(eight, compiled, gib):
    make, tried = compiled
    make.gib = lambda mesh, remat, microbatches: 1 if remat == MOST and microbatches > 1 else gib
    found, said = run(eight)
    by_mesh = {}
    for mesh, *settings in tried:
        for earlier in by_mesh.setdefault(mesh, []):
            fits = make.gib(mesh, *earlier) == 1
            order = [sizing.REMATS.index(one) for one in (earlier[0], settings[0])]
            saves_more = order[1] >= order[0] and settings[1] >= earlier[1]
            saves_less = order[1] <= order[0] and settings[1] <= earlier[1]
            assert not (saves_more if fits else saves_less), tried
        by_mesh[mesh].append(settings)
    assert {one.remat for one in found} == {MOST} and 2 in {one.microbatches for one in found}
    assert any("too much" in line for line in said)


def test_what_limits_leave_out_is_said(eight, compiled):
    make, tried = compiled
    make.gib = lambda mesh, remat, microbatches: 1
    assert len(run(eight, tries=2)[0]) == 2
    assert "2 compiled; --tries=2 left out" in run(eight, tries=2)[1][-1]
    found, said = run(eight, minutes=0.0)
    assert not found and "0 compiled; --minutes=0 left out" in said[-1]


@pytest.mark.parametrize("model", [tiny.SETTINGS, EXPERTS], ids=["dense", "experts"])
def test_no_compiled_step_needs_less_than_the_least(eight, model):
    """State exactly but for the gradients, which may be of 2 bytes; kept inputs at least."""
    asked = config(batch_size=32, microbatches=2)
    asked = dataclasses.replace(asked, mesh=Mesh(data=1, fsdp=4, tensor=2))
    guessed = sizing.guesser(asked, model, eight, ROWS).guess(asked)
    made = estimate.make(asked, model, eight, ROWS)
    state = made.state_bytes
    gradients = state["gradients"] / 2
    total = state["parameters"] + state["optimizer"] + gradients
    assert guessed.state_bytes == pytest.approx(total, rel=1e-3)
    assert guessed.state_bytes + guessed.kept_bytes < made.memory.needed_bytes


def test_guesses_order_as_the_costs_do(eight):
    asked = config(batch_size=16)
    guesser = sizing.guesser(asked, tiny.SETTINGS, eight, ROWS)

    def seconds(remat="none", microbatches=1, **sizes):
        train = dataclasses.replace(asked.train, microbatches=microbatches)
        model = dataclasses.replace(asked.model, remat=remat)
        sizes = Mesh(**({"data": 1} | sizes))
        changed = dataclasses.replace(asked, mesh=sizes, train=train, model=model)
        return guesser.guess(changed).seconds

    assert seconds(fsdp=8) < seconds(fsdp=8, microbatches=2)  # weights are gathered twice
    assert seconds(fsdp=8) < seconds(fsdp=8, remat=MOST)
