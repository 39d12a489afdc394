"""The plan knows a teacher: its memory, its work, the meshes that split it."""

import dataclasses
import io
import math

import jax
import numpy as np
import pytest
import tiny
from rich.console import Console

from jaxsft.config import Distil, Mesh
from jaxsft.plan import estimate, memory, relief, search, sizing, text
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.measured_data import PlannedRun
from jaxsft.plan.topology import Topology
from jaxsft.training import mesh_fit, mesh_program
from jaxsft.training.teacher import Teacher
from jaxsft.training.too_large import TooLarge
from tests.training.test_mesh_fit import config

ROWS = BatchLoad(tokens=1.0, supervised=1.0, segment_length=32.0)
WIDE = dataclasses.replace(tiny.SETTINGS, embed_dim=96, num_heads=6, num_layers=3)
STORED = {"embedding_VD": "bfloat16", "head_DV": "bfloat16"}  # all others float32
TEACHER = Teacher(WIDE, WIDE.num_tokens, STORED)


def asked(sizes=Mesh(fsdp=4, tensor=2), dtype="source"):  # noqa: B008 # frozen
    one = config(sizes)
    model = dataclasses.replace(one.model, remat="full", dtype="float32")
    return dataclasses.replace(one, model=model, distil=Distil(teacher="t", dtype=dtype))


def eighth(leaves):
    """Bytes of a device of eight: norms are whole on each."""
    return sum(
        math.prod(shape) * np.dtype(STORED.get(name, "float32")).itemsize
        / (1 if set(axes) <= {"layer", "norm"} else 8)
        for name, shape, axes in leaves
    )  # fmt: skip


@pytest.fixture(scope="module")
def eight():
    return Topology("cpu:8", jax.devices(), None, 1)


@pytest.fixture(scope="module")
def made(eight):
    return estimate.make(asked(), tiny.SETTINGS, eight, ROWS, teacher=TEACHER)


def test_its_memory_is_a_part_of_the_plan(made):
    assert made.state_bytes["teacher"] == eighth(mesh_fit.leaves(WIDE))
    assert made.memory.arguments_bytes > sum(
        made.state_bytes[name] for name in ("parameters", "optimizer", "teacher")
    )


def test_a_guess_counts_its_bytes_and_its_work(eight, made):
    one = asked()
    taught = sizing.guesser(one, tiny.SETTINGS, eight, ROWS, TEACHER).guess(one)
    plain = sizing.guesser(one, tiny.SETTINGS, eight, ROWS).guess(one)
    assert taught.state_bytes - plain.state_bytes == made.state_bytes["teacher"]
    assert taught.seconds > plain.seconds
    narrow = sizing.teacher_bytes(asked(dtype="bfloat16"), TEACHER, dict(made.mesh))
    assert made.state_bytes["teacher"] / 2 <= narrow < made.state_bytes["teacher"]


def test_the_table_has_its_row(eight, made):
    terminal = Console(record=True, width=100, file=io.StringIO())
    run = PlannedRun(rows=ROWS, num_steps=None, where_from="x")
    text.show(made, eight, run, terminal)
    row = next(line for line in terminal.export_text().splitlines() if "teacher" in line)
    assert f"{made.state_bytes['teacher'] / memory.GIB:.2f}" in row
    assert text.as_json(made, eight, run)["state_bytes"]["teacher"] > 0


def test_meshes_that_do_not_split_it_are_not_tried(eight):
    one = asked(Mesh())
    odd = Teacher(dataclasses.replace(WIDE, num_heads=3, num_kv_heads=1), 64, STORED)
    every, left = (
        {each.config.mesh.tensor for each in search._candidates(one, tiny.SETTINGS, eight, ROWS, t)}
        for t in (TEACHER, odd)
    )
    assert every == {1, 2} and left == {1}  # six heads, and three


def test_one_that_is_too_large_by_itself_is_refused_before_a_compilation():
    one = asked(Mesh(fsdp=8))
    built = mesh_program.make_program(
        one, tiny.SETTINGS, 2, mesh_program.checked_mesh(one, tiny.SETTINGS), teacher=TEACHER
    )
    held = memory.state_bytes(built)
    enough_without = int(held["parameters"] + held["optimizer"]) + 1
    with pytest.raises(TooLarge, match="parameters, the teacher's and the optimizer's state alone"):
        relief.compile_step(built, one, enough_without, lambda line: None)
