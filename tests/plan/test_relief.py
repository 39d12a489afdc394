"""What is proposed where a step is too large does fit, and nothing else is proposed."""

import dataclasses
import re
from typing import Any

import jax
import pytest
import tiny

from jaxsft.config import Config, Mesh
from jaxsft.plan import memory, relief, sizing
from jaxsft.training import mesh_fit, mesh_program, too_large
from jaxsft.training.too_large import TooLarge
from tests.training import test_mesh_fit

ONE = {"data": 1, "fsdp": 1, "context": 1, "expert": 1, "tensor": 1}
KEPT = dict(zip(sizing.REMATS, (8, 6, 5, 4, 2), strict=True))  # of a token, by its remat


def config(*given, **train) -> Config:
    """With a remat policy, after which others can be proposed."""
    return relief._changed(test_mesh_fit.config(*given, **train), {"model.remat": "none"})


def needed(one: Config, shares: int = 1) -> float:
    """A made-up step, in which everything counts that counts in a real one."""
    train = one.train
    rows = train.batch_size / shares / train.microbatches
    gradients = {"float32": 400, "bfloat16": 200}[one.optim.gradient_dtype]
    gradients *= 2 if train.microbatches > 1 else 1
    moment = {"float32": 400, "bfloat16": 200}[one.optim.first_moment_dtype]
    return 800 + moment + gradients + rows * one.data.sequence_length * KEPT[one.model.remat]


def asked(length=512, **train) -> Config:
    one = config(**({"batch_size": 8} | train))
    return dataclasses.replace(one, data=dataclasses.replace(one.data, sequence_length=length))


def proposals(said: str) -> list[dict[str, str]]:
    listed = said.removeprefix("What fits, each by itself: ")
    assert listed != said
    return [dict(re.findall(r"config\.([\w.]+)=(\w+)", part)) for part in listed.split("; or ")]


def applied(one: Config, changes: dict[str, str]) -> Config:
    for path, text in changes.items():
        value = int(text) if text.isdigit() else text
        one = relief._changed(one, {path: value})
    return one


@pytest.mark.parametrize("limit", [33_000, 20_000, 10_000, 6_000, 5_300, 3_000, 2_200, 1_800])
@pytest.mark.parametrize(
    ("one", "sizes"),
    [
        (asked(), ONE),
        (asked(batch_size=6), ONE | {"fsdp": 2}),
        (asked(batch_size=1), ONE),
        (asked(batch_size=8, microbatches=2), ONE | {"fsdp": 4}),
    ],
    ids=["eight rows", "six rows over two", "one row", "one row each"],
)
def test_all_that_is_proposed_fits(one, sizes, limit):
    shares = sizes["fsdp"]

    def fits(two: Config) -> bool:
        train = two.train
        mesh_fit.check_batch(sizes, train.batch_size, train.microbatches, two.data.sequence_length)
        return needed(two, shares) <= limit

    if fits(one):
        return
    said = relief.of_step(one, sizes, fits)
    found = proposals(said)
    assert found and all(fits(applied(one, changes)) for changes in found)
    if one.train.batch_size == shares * one.train.microbatches:
        assert "microbatches" not in said and "batch_size" not in said


def test_the_mildest_change_of_a_kind_is_proposed():
    said = relief.of_step(asked(), ONE, lambda one: needed(one) <= 20_000)
    assert proposals(said) == [
        {"train.microbatches": "2"},
        {"model.remat": "save_context"},
        {"data.sequence_length": "256"},
        {"train.batch_size": "4"},
    ]


def test_where_no_change_is_enough_the_fewest_are_put_together():
    said = relief.of_step(asked(), ONE, lambda one: needed(one) <= 4_000)
    (together,) = proposals(said)
    assert together == {"train.microbatches": "8", "model.remat": "full"}


def test_what_nothing_mends_is_said():
    assert "Nothing that was tried" in relief.of_step(asked(), ONE, lambda one: False)


def test_what_was_found_in_time_is_said():
    left = iter([False, True])  # for the strongest change of the first kind; then time is over

    def fits(one: Config) -> bool:
        for fine in left:
            return fine
        raise relief._Enough

    assert proposals(relief.of_step(asked(), ONE, fits)) == [{"train.microbatches": "8"}]


def test_a_state_that_is_too_large_says_what_holds_it():
    one = config(Mesh(data=1))
    named = mesh_fit.leaves(tiny.SETTINGS)
    size = relief._state_bytes(one, tiny.SETTINGS, named, ONE, gradients=False)
    whole = relief._state_bytes(one, tiny.SETTINGS, named, ONE, gradients=True)
    assert whole == pytest.approx(size * 4 / 3)

    def fits(two: Config) -> bool:
        return two.model.parameter_dtype == "bfloat16"

    said = relief.of_state(one, tiny.SETTINGS, 1, int(0.9 * size), fits)
    assert said == (
        "What fits: config.optim.first_moment_dtype=bfloat16 with"
        " config.model.parameter_dtype=bfloat16 with config.train.microbatches=8"
        " with config.model.remat=full with config.optim.gradient_dtype=bfloat16;"
        " or 2 devices like these, which hold it with its gradients"
    )
    said = relief.of_state(one, tiny.SETTINGS, 1, int(whole / 7), None)
    assert said == "What fits: 8 devices like these, which hold it with its gradients"


def test_no_first_moment_is_narrowed_that_the_optimizer_does_not_have_so():
    one = config(Mesh(data=1))
    one = dataclasses.replace(one, optim=dataclasses.replace(one.optim, name="adamw_8bit"))
    named = mesh_fit.leaves(tiny.SETTINGS)
    size = relief._state_bytes(one, tiny.SETTINGS, named, ONE, gradients=True)
    said = relief.of_state(one, tiny.SETTINGS, 1, int(0.9 * size), lambda two: True)
    assert "config.model.parameter_dtype=bfloat16" in said and "first_moment" not in said
    assert relief.of_state(one, tiny.SETTINGS, 1, 10, None) == "Take a smaller model"


@pytest.fixture(scope="module")
def built():
    one = config(Mesh(data=1, fsdp=8), batch_size=64)
    return one, mesh_program.make_program(
        one, tiny.SETTINGS, 1, mesh_program.checked_mesh(one, tiny.SETTINGS)
    )


@pytest.fixture(scope="module")
def compiled(built):
    chosen = relief.compile_step(built[1], built[0], 2**40, [].append)
    return chosen.compiled, chosen.memory


def test_a_step_that_is_too_large_is_refused_with_what_fits(built, compiled, monkeypatch):
    one, its_program = built
    ready, its_memory = compiled
    assert its_memory.fits
    monkeypatch.setattr(mesh_program, "compile_train_step", lambda *_: ready)
    monkeypatch.setattr(relief, "compiling", lambda *_: lambda two: two.train.batch_size == 8)
    said = []
    with pytest.raises(
        TooLarge, match=r"needs .* may use .*What fits.*: config.train.batch_size=8"
    ):
        relief.compile_step(its_program, one, its_memory.needed_bytes - 1, said.append)
    assert said[0].startswith("compiled in ") and "trying what would fit" in said[1]
    small = int(memory.state_bytes(its_program)["parameters"])
    with pytest.raises(TooLarge, match="the optimizer's state alone take .* on each of 8 devices"):
        relief.compile_step(its_program, one, small, said.append)

    def refuses(*_):
        raise TooLarge("said by the compiler.")

    monkeypatch.setattr(mesh_program, "compile_train_step", refuses)
    with pytest.raises(TooLarge, match=r"said by the compiler\. What fits.*train.batch_size=8$"):
        relief.compile_step(its_program, one, 2**40, said.append)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nat"),
            "a device has no memory left: RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.; ",
        ),
        (MemoryError(), "this machine has no memory left; less is needed with fewer config.data.w"),
        (jax.errors.JaxRuntimeError("INTERNAL: x"), None),
        (ValueError("RESOURCE_EXHAUSTED"), None),
    ],
)
def test_memory_that_runs_out_later_is_the_users_to_mend(error, said):
    found = too_large.ran_out(error, asked())
    assert found is None if said is None else str(found).startswith(said)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (asked(batch_size=8, microbatches=1), "with config.model.remat=full, "),  # 8 devices
        (asked(batch_size=16, microbatches=2), "with config.model.remat=full, "),
        (asked(batch_size=16, microbatches=1), "with more config.train.microbatches, config.model"),
    ],
)
def test_what_can_need_no_less_is_not_proposed(one, said):
    found = too_large.ran_out(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x"), one)
    assert f"less is needed {said}" in str(found) and "config.eval" not in str(found)


def test_what_fits_is_what_the_compiler_says(built, compiled, monkeypatch):
    one, (ready, its_memory) = built[0], compiled
    monkeypatch.setattr(mesh_program, "compile_train_step", lambda *_: ready)
    enough = its_memory.needed_bytes
    assert relief.compiling(tiny.SETTINGS, None, enough, 0.0)(one)
    assert not relief.compiling(tiny.SETTINGS, None, enough - 1, 0.0)(one)
    odd = relief._changed(one, {"train.batch_size": 9})
    assert not relief.compiling(tiny.SETTINGS, None, enough, 0.0)(odd)  # over 8 devices
    asked_for = []  # back ends differ by the segments of a row, memory by dtypes of frozen weights
    monkeypatch.setattr(
        mesh_program,
        "make_program",
        lambda *given, teacher: asked_for.append((*given[-2:], teacher)),
    )
    teacher: Any = object()
    dtypes = {"embedding_VD": "bfloat16"}
    assert relief.compiling(tiny.SETTINGS, None, enough, 0.0, 7, dtypes, teacher)(one)
    assert asked_for == [(7, dtypes, teacher)]
    monkeypatch.setattr(relief, "_MIN_SECONDS", -1.0)
    with pytest.raises(relief._Enough):
        relief.compiling(tiny.SETTINGS, None, enough, 0.0)(one)
