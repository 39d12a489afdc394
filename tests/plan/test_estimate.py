"""The plan compiles the step that training runs: the same memory, and work that adds up."""

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tiny
from rich.console import Console

from jaxsft.config import Config, Data, Mesh, Model, Optim, Source, Train
from jaxsft.errors import ConfigError
from jaxsft.kernels.experts import tiles
from jaxsft.plan import estimate, measured_data, memory, text, topology
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.training import mesh_program, over_mesh
from jaxsft.training.too_large import TooLarge
from tests import programs, quick_compiling
from tests.training.test_mesh_fit import EXPERTS

ROOT = Path(__file__).resolve().parents[2]
ROWS = BatchLoad(tokens=1.0, supervised=1.0, segment_length=32.0)
FREE = Mesh()


def config(sizes: Mesh = FREE, remat="none", **train) -> Config:
    return Config(
        model=Model(source="none", dtype="float32", remat=remat),
        data=Data(train=(Source(path="none.jsonl"),), sequence_length=32),
        mesh=sizes,
        optim=Optim(peak_lr=1e-3),
        train=Train(**({"batch_size": 16, "steps": 1} | train)),
    )


@pytest.fixture(scope="module")
def eight():
    return topology.open_topology("cpu:8")


@pytest.fixture(scope="module")
def sharded(eight):
    return estimate.make(config(Mesh(fsdp=4, tensor=2)), tiny.SETTINGS, eight, ROWS)


def test_memory_is_what_the_run_allocates(sharded, eight):
    """The arguments by the arrays that a run places, the rest by the program that it runs."""
    asked = config(Mesh(fsdp=4, tensor=2))
    built = mesh_program.make_program(
        asked, tiny.SETTINGS, 1, mesh_program.checked_mesh(asked, tiny.SETTINGS, eight.devices)
    )
    with jax.set_mesh(built.mesh):
        zeros = jax.jit(
            lambda: jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), built.shapes),
            out_shardings=built.placement,
        )()
        batch = jax.device_put(tiny.uneven_batch(), over_mesh.batch_sharding(built.mesh))
        ran = built.train_step.lower(zeros, batch).compile()
    first = jax.devices()[0]
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves((zeros, batch))
        for shard in leaf.addressable_shards
        if shard.device == first
    )
    assert sharded.memory.arguments_bytes == held
    assert sharded.memory == memory.of(ran, sharded.memory.limit_bytes)
    state = sharded.state_bytes
    assert state["optimizer"] == 2 * state["parameters"] + 4  # and a counter
    assert sharded.memory.donated_bytes >= 3 * state["parameters"]


def test_matrix_products_are_those_of_the_formula(eight):
    """6 per weight and token of full rows; plain attention computes what its mask hides, too."""
    made = estimate.make(config(Mesh(fsdp=8)), tiny.SETTINGS, eight, ROWS)
    s, tokens = tiny.SETTINGS, 16 * 32 / 8
    square = 12 * s.num_layers * s.num_heads * s.head_dim * 32 * tokens
    needed = made.flops + square - square * (32 + 1) / (2 * 32)
    # The head's loop runs over whole chunks: 128 tokens here, and 64 there are.
    head = 6 * s.embed_dim * s.vocab_size * tokens
    assert made.matmul_flops == pytest.approx(needed + head, rel=0.02)
    again = estimate.make(config(Mesh(fsdp=8), remat="full"), tiny.SETTINGS, eight, ROWS)
    assert made.matmul_flops * 1.15 < again.matmul_flops < made.matmul_flops * 4 / 3
    assert again.flops == made.flops


def test_experts_cost_the_tiles_that_an_even_router_fills(eight):
    """Three products of each tile and matrix: forward, of the rows, of the weights."""

    def make(tokens):
        rows = dataclasses.replace(ROWS, tokens=tokens)
        return estimate.make(config(Mesh(fsdp=2, expert=4), batch_size=64), EXPERTS, eight, rows)

    full, half = make(1.0), make(0.5)
    pairs = 64 * 32 // 2 * EXPERTS.moe.experts_per_token  # a chip sees those of its 4 neighbours
    rows, here = full.expert_rows, EXPERTS.moe.num_experts // 4
    assert (rows.buffer, rows.used) == (pairs, pairs / 4)
    assert half.expert_rows.used == rows.used / 2
    tile = tiles.tile_rows(pairs, here)
    assert rows.tiles == rows.used / tile + here / 2
    of_tile = 2 * tile * EXPERTS.embed_dim * EXPERTS.moe.expert_mlp_dim
    expected = EXPERTS.num_layers * 3 * 3 * of_tile * (rows.tiles - half.expert_rows.tiles)
    assert full.matmul_flops - half.matmul_flops == expected > 0


def test_communication_is_named_by_the_axis_it_travels_over(sharded):
    axes = {one.axis for one in sharded.collectives}
    assert {"fsdp", "tensor"} <= axes
    gathered = [one for one in sharded.collectives if one.kind == "all-gather"]
    assert any(one.axis == "fsdp" for one in gathered)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("v5p", "--topology=v5p: expected a kind and a shape"),
        ("v9:2x2", "'v9' is not known"),
        ("cpu:99", "cpu:99: this process has 8 CPU devices"),
        ("cpu:2x2", "cpu:2x2: this process has"),
    ],
)
def test_topologies_that_are_not_there_are_refused(name, match):
    with pytest.raises(ConfigError, match=match):
        topology.open_topology(name)


def test_a_step_that_the_compiler_refuses_is_told_like_one_that_does_not_fit(eight):
    """The TPU's compiler says so itself; another failure is not the user's."""

    class Refused:
        def lower(self, *given):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError(self.said)

    asked = config(Mesh(fsdp=8), microbatches=2)
    mesh = mesh_program.checked_mesh(asked, tiny.SETTINGS, eight.devices)
    refused = Refused()
    built = dataclasses.replace(
        mesh_program.make_program(asked, tiny.SETTINGS, 1, mesh), train_step=refused
    )
    refused.said = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, (1.09T) exceeds (95.74G).\nmore"
    with pytest.raises(TooLarge, match=r"too large\. .* exceeds \(95.74G\)\.$"):
        mesh_program.compile_train_step(built, asked)
    refused.said = "RESOURCE_EXHAUSTED: CompileTimeScopedVmemOom"
    with pytest.raises(jax.errors.JaxRuntimeError, match="Vmem"):
        mesh_program.compile_train_step(built, asked)


def test_text_and_json_agree(sharded, eight):
    run = measured_data.PlannedRun(rows=ROWS, num_steps=10, where_from="a test")
    terminal = Console(record=True, width=120, file=open(os.devnull, "w"))
    with terminal.file:
        text.show(sharded, eight, run, terminal)
    shown = terminal.export_text()
    assert "mesh fsdp=4, tensor=2" in shown and "all-gather" in shown
    assert "remat: none (config.model.remat)" in shown
    value = json.loads(json.dumps(text.as_json(sharded, eight, run)))
    assert value["memory"]["fits"] and value["collectives"][0]["bytes"] > 0
    assert set(value) >= {"flops", "step_seconds", "num_chips", "mfu", "tokens_per_second"}


def plan(*flags, path=str(ROOT)):
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "plan.py", f"--config={ROOT}/configs/debug.py", *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": quick_compiling.XLA_FLAGS},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("sizes", "expected"), [(FREE, (4, 2)), (Mesh(data=1), (1, 8)), (Mesh(tensor=2), (4, 1))]
)
def test_open_axes_of_boxes_are_those_of_a_run(sizes, expected):
    """A run sees each box as a slice; boxes that aren't there all say that they are slice 0."""
    boxes = topology.Topology("h100:2x4", jax.devices(), None, 4)
    made = estimate.make(config(sizes), tiny.SETTINGS, boxes, ROWS)
    assert (made.mesh["data"], made.mesh["fsdp"]) == expected


def test_the_program_plans_the_debug_run():
    flags = ("--topology=cpu:4", "--config.mesh.tensor=2", "--json")
    done = programs.tool("plan", f"--config={ROOT}/configs/debug.py", *flags)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["mesh"] == {"data": 1, "fsdp": 2, "context": 1, "expert": 1, "tensor": 2}
    assert value["num_steps"] == 20 and value["memory"]["fits"]
    assert value["remat"] == "save_projections"
    assert value["remat_why"] == "auto: the fastest that fits"


@pytest.mark.parametrize(
    ("name", "slices", "tensor", "devices", "gib"),
    [
        ("v5e:2x2", 2, 1, 4, 15.75),  # two slices
        ("v6e:4x4", 1, 2, 16, 31.25),  # one, of which a side is split
        # The same with other facts of the hardware.
        pytest.param("v4:2x2x1", 1, 1, 4, 30.75, marks=pytest.mark.slow),
        pytest.param("v5p:2x2x1", 1, 1, 4, 95.74, marks=pytest.mark.slow),
        pytest.param("v7x:2x2x1", 1, 1, 8, 94.75, marks=pytest.mark.slow),
    ],
)
def test_a_slice_that_is_not_there_is_compiled_for(name, slices, tensor, devices, gib):
    libtpu = Path(sys.prefix) / "libtpu"
    if not libtpu.is_dir() and importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu, in the environment that `make test` makes")
    value = json.loads(
        plan(
            *(f"--topology={name}", f"--slices={slices}", "--json"),
            *("--config.model.remat=full", f"--config.mesh.tensor={tensor}"),
            path=f"{ROOT}:{libtpu}",
        )
    )
    assert value["mesh"]["data"] == slices and value["mesh"]["fsdp"] * tensor == devices
    chips = math.prod(int(size) for size in name.partition(":")[2].split("x"))
    assert value["num_chips"] == chips * slices and value["memory"]["fits"]
    assert value["memory"]["limit_bytes"] == int(gib * memory.GIB)
    assert 0 < value["mfu"] < 1 and value["step_seconds"]["estimate"] > 0
    axes = {one["axis"] for one in value["collectives"] if one["bytes"] > 1000}
    assert "fsdp" in axes
    assert any("data" in axis for axis in axes) == (slices > 1)
