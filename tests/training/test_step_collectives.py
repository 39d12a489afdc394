"""What the compiled step sends over each mesh: what its sharding implies, and nothing else."""

import functools

import jax
import pytest
import tiny

from jaxsft.config import Mesh
from jaxsft.plan import cost, hlo
from jaxsft.plan.communication import axis_of
from jaxsft.training import mesh_program
from tests.training.test_mesh_fit import EXPERTS, config

LAYERS, PARTS = tiny.SETTINGS.num_layers, 2
V, D = tiny.SETTINGS.vocab_size, tiny.SETTINGS.embed_dim
CASES = {
    "fsdp": (tiny.SETTINGS, Mesh(fsdp=8)),
    "replicas": (tiny.SETTINGS, Mesh(data=2, fsdp=4)),
    "tensor": (tiny.SETTINGS, Mesh(fsdp=4, tensor=2)),
    "context": (tiny.SETTINGS, Mesh(fsdp=4, context=2)),
    "experts": (EXPERTS, Mesh(fsdp=4, expert=2)),
}


@functools.cache
def compiled(name):
    """The program, its parsed text, and (how often, instruction, axis) of all that communicates."""
    model, sizes = CASES[name]
    asked = config(sizes, batch_size=48, microbatches=PARTS)  # no shape of rows like a leaf's
    mesh = mesh_program.checked_mesh(asked, model)
    built = mesh_program.make_program(asked, model, 2, mesh)
    parsed = hlo.parse(mesh_program.compile_train_step(built, asked).as_text())
    found = [
        (times, one, axis_of(cost.device_groups(one.attributes), mesh))
        for computation, times in parsed.running()
        for one in computation.instructions.values()
        if cost.kind_of(one)
    ]
    assert found
    return built, parsed, found


def gathers(name, *times):
    _, _, found = compiled(name)
    return [(one, axis) for often, one, axis in found if often in times and "gather" in one.op]


@pytest.mark.parametrize("name", CASES)
def test_outside_the_layers_only_embedding_and_head_are_gathered_once(name):
    """Before the loop over micro-batches: not again for each of them, and nothing after it."""
    assert PARTS != 1 and LAYERS * PARTS not in (1, PARTS)
    ones = [one for one, _ in gathers(name, 1)]
    sizes = sorted(array.size for one in ones for array in one.arrays)
    if name == "tensor":  # the embedding over one axis and then the other; half the head's columns
        assert len(ones) == 3 and sizes[-1] == V * D and V * D // 2 in sizes[:-1]
    else:
        assert len(ones) == 2 and sizes == [V * D] * 2
    assert {one.name for one in ones} <= before_the_loop(compiled(name)[1])


def before_the_loop(parsed):
    """Names of what the loop over micro-batches is given, or that is made of."""
    (outer,) = [
        computation.instructions
        for computation, times in parsed.running()
        if times == 1 and any(one.op == "while" for one in computation.instructions.values())
    ]
    (loop,) = [one for one in outer.values() if one.op == "while"]
    seen, waiting = set(), list(loop.operands)
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += outer[name].operands
    return seen


@pytest.mark.parametrize("name", CASES)
def test_the_heads_gradient_goes_once_a_part_to_where_the_head_lies(name):
    built, _, found = compiled(name)
    lies = built.placement.params["head_DV"].shard_shape((D, V))
    scattered = [
        one.arrays[0].shape
        for often, one, _ in found
        if one.op == "reduce-scatter" and "shard_map" in one.attributes and often == PARTS
    ]
    assert scattered == [lies]


@pytest.mark.parametrize("name", CASES)
def test_stacked_parameters_and_optimizer_state_are_never_gathered(name):
    built, _, found = compiled(name)
    stacked = {
        leaf.shape for leaf in jax.tree.leaves(built.shapes.params["layers"]) if len(leaf.shape) > 2
    }
    whole = [
        one.name
        for _, one, _ in found
        for array in one.arrays
        if one.op.startswith("all-gather") and array.shape in stacked
    ]
    assert not whole


@pytest.mark.parametrize("name", CASES)
def test_the_batch_stays_where_it_is(name):
    """Rows do not move; over a split sequence the segments of all keys are gathered."""
    _, _, found = compiled(name)
    for _, one, axis in found:
        assert one.op.removesuffix("-start") not in ("all-to-all", "collective-permute"), one
        if any(array.dtype == "s32" and array.size > 1 for array in one.arrays):
            assert axis == {"context": "context", "experts": "expert"}[name], one


@pytest.mark.parametrize("name", ["fsdp", "replicas"])
def test_a_layer_gathers_each_of_its_matrices_once_a_pass(name):
    """Seven matrices, forward and backward; over the axis that splits them."""
    inside = gathers(name, LAYERS * PARTS)
    assert len(inside) == 2 * 7
    assert {axis for _, axis in inside} == {"fsdp"}


def test_replicas_talk_only_to_add_gradients_and_sums():
    _, _, found = compiled("replicas")
    crossing = [one for _, one, axis in found if "data" in axis]
    assert crossing and all(one.op.startswith("all-reduce") for one in crossing)
