"""A step with a teacher: what it minimises, computes and holds; the laws that it keeps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.nnx.traversals import flatten_mapping

from jaxsft import config
from jaxsft.checks import bench, laws
from jaxsft.config import Distil, Lora
from jaxsft.data.conversation import TeacherTargets
from jaxsft.data.pack import packing
from jaxsft.data.pack.teacher_rows import teacher_rows
from jaxsft.devices import mesh as mesh_lib
from jaxsft.devices.digest import named
from jaxsft.model import adapter_plan, state
from jaxsft.plan import cost, hlo
from jaxsft.training import mesh_program, over_mesh, step
from jaxsft.training.batch import Batch
from jaxsft.training.teacher import Teacher

ROWS, LENGTH, COMPARED = 16, 32, 61
# Of another width, depth and head than the student, with padding where that has tokens.
OTHER = dataclasses.replace(
    tiny.SETTINGS,
    num_layers=3,
    embed_dim=48,
    num_heads=2,
    head_dim=16,
    mlp_dim=40,
    tied_embeddings=True,
    logit_soft_cap=5.0,
    logit_scale=0.5,
    num_padding=tiny.VOCAB - COMPARED,
)
DISTIL = Distil(teacher="x", alpha=0.25, temperature=2.0)


def asked(sizes=tiny.ONE_DEVICE, distil=DISTIL, microbatches=1, **changes):
    return config.Config(
        model=config.Model(source="x", dtype="float32", remat="none", unroll_layers=1),
        data=config.Data(train=(config.Source(path="x"),), sequence_length=LENGTH),
        optim=tiny.OPTIM,
        train=config.Train(batch_size=ROWS, steps=20, microbatches=microbatches),
        mesh=sizes,
        distil=distil,
        **changes,
    )


def teacher_of(settings):
    return Teacher(settings, settings.num_tokens, {})


@functools.cache
def program_of(settings, sizes=tiny.ONE_DEVICE, microbatches=1, distil=DISTIL, rank=None):
    """The program of a run with this teacher (None: without one), and its gradient."""
    lora = None if rank is None else Lora(rank=rank)
    one = asked(sizes, None if settings is None else distil, microbatches, lora=lora)
    over = mesh_lib.make_mesh(sizes, jax.devices()[:1] if sizes == tiny.ONE_DEVICE else None)
    taught = settings is not None and distil.teacher is not None
    teacher = teacher_of(settings) if taught else None
    program = mesh_program.make_program(one, tiny.SETTINGS, 20, over, teacher=teacher)
    return one, program, jax.jit(functools.partial(step.gradient_sums, program.recipe))


@functools.cache
def teacher_params(settings):
    """Other ones than the student's, even where the settings are the same."""
    _, shapes, _ = state.abstract(settings, "float32", "none")
    one = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    return jax.tree.map(np.asarray, state.random_params(settings, 7, one))


def gradients(batch, settings=OTHER, theirs=None, **how):
    """Sums and gradients over the weight that divides them."""
    _, program, compute = program_of(settings, **how)
    placement = program.placement
    with jax.set_mesh(program.mesh):
        params = jax.device_put(tiny.host_params(), adapter_plan.without_adapters(placement.params))
        if program.adapters is not None:
            specs, weights = program.adapters.specs, program.adapters.weights
            params = adapter_plan.first_values(specs, weights, params, placement.params, 0)
        teacher = None
        if placement.teacher is not None:
            teacher = jax.device_put(theirs or teacher_params(settings), placement.teacher)
        rows = jax.device_put(batch, over_mesh.batch_sharding(program.mesh))
        (sums, _), grads = jax.device_get(compute(params, rows, teacher))
    return sums, jax.tree.map(lambda leaf: leaf / sums.minimised_weight, grads)


@pytest.fixture(scope="module")
def alone():
    return gradients(tiny.uneven_batch(ROWS, LENGTH))


def test_it_is_that_of_both_models_whole_logits(alone):
    """By jax.nn.log_softmax; the teacher's padding is no token of either."""
    batch = jax.tree.map(jnp.asarray, tiny.uneven_batch(ROWS, LENGTH))
    inputs = batch.tokens_BT, batch.segments_BT, batch.positions_BT

    def value(params):
        ours = tiny.logits(params, *inputs)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(ours), batch.targets_BT[..., None], -1)
        log_q, log_p = (jax.nn.log_softmax(one[..., :COMPARED] / 2.0) for one in (ours, theirs))
        kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        both = 0.25 * nll[..., 0] + 0.75 * 2.0**2 * kl
        weights = batch.weights_BT
        return jnp.sum(weights * both) / weights.sum(), jnp.sum(weights * kl)

    theirs = tiny.logits(teacher_params(OTHER), *inputs, model=OTHER)
    params = jax.tree.map(jnp.asarray, tiny.host_params())
    (objective, kl), expected = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    sums, grads = alone
    np.testing.assert_allclose(sums.objective / sums.objective_weight, objective, rtol=1e-5)
    np.testing.assert_allclose(sums.kl, kl, rtol=1e-5)
    tiny.assert_trees_close(grads, jax.device_get(expected))


@pytest.mark.parametrize(
    "how",
    [
        {"microbatches": 4},
        {"sizes": config.Mesh(fsdp=8), "microbatches": 2},
        {"sizes": config.Mesh(data=2, context=2, tensor=2)},
    ],
    ids=str,
)
def test_how_the_work_is_divided_changes_nothing(alone, how):
    sums, grads = gradients(tiny.uneven_batch(ROWS, LENGTH), **how)
    tiny.assert_trees_close(sums, alone[0])
    tiny.assert_trees_close(grads, alone[1])


def test_packing_changes_nothing():
    """To the teacher a conversation is as alone as to the student."""
    lengths = [5, 9, 20, 3, 14, 11, 27, 7, 30, 4, 6, 25, 8, 16, 12, 10]
    made = tiny.conversations(lengths)
    plans = (
        packing.plan_rows(np.array(lengths), 32, seed=0, epoch=0),
        packing.one_per_row(np.array(lengths)),
    )
    found = []
    for plan in plans:
        numbers = [*range(plan.num_rows), *[packing.PADDING_ROW] * (ROWS - plan.num_rows)]
        rows = packing.build_rows(lambda at: [made[i] for i in at], plan, numbers, LENGTH)
        found.append(gradients(Batch(**rows)))
    assert plans[0].num_rows < plans[1].num_rows == ROWS
    tiny.assert_trees_close(*found)


def test_what_rows_say_is_what_the_teacher_would():
    """Over four micro-batches, of its five likeliest tokens; a sixth is there and not taken."""
    batch, online = tiny.uneven_batch(ROWS, LENGTH), Distil(teacher="x", alpha=0.25, top_k=5)
    whole = dataclasses.replace(OTHER, num_padding=0)
    expected = gradients(batch, whole, distil=online)
    inputs = batch.tokens_BT, batch.segments_BT, batch.positions_BT
    logits = tiny.logits(teacher_params(whole), *inputs, model=whole)
    logprobs, ids = map(np.asarray, jax.lax.top_k(jax.nn.log_softmax(logits), 6))
    there = batch.weights_BT != 0
    taught = TeacherTargets(ids[there], logprobs[there])
    rows = teacher_rows([taught], batch.weights_BT, 5)
    stored = dataclasses.replace(online, teacher=None)
    how = {"distil": stored, "microbatches": 4, "sizes": config.Mesh(fsdp=4, tensor=2)}
    sums, grads = gradients(dataclasses.replace(batch, **rows), whole, **how)
    tiny.assert_trees_close(sums, expected[0])
    tiny.assert_trees_close(grads, expected[1])


@pytest.mark.parametrize("top_k", [None, 4])
def test_a_teacher_that_is_the_student_moves_nothing(top_k):
    distil = Distil(teacher="x", alpha=0.0, top_k=top_k)
    batch = tiny.uneven_batch(ROWS, LENGTH)
    same = {"settings": tiny.SETTINGS, "distil": distil}
    sums, by_itself = gradients(batch, theirs=tiny.host_params(), **same)
    _, by_another = gradients(batch, **same)
    assert abs(sums.kl) < 1e-5 * sums.weight
    for none, some in zip(*map(jax.tree.leaves, (by_itself, by_another)), strict=True):
        assert np.abs(none).max() < 1e-5 * np.abs(some).max()


def test_only_the_students_trained_parameters_have_a_gradient_and_a_place_in_checkpoints():
    _, plain, _ = program_of(None)
    _, taught, _ = program_of(OTHER)
    assert set(named(taught.shapes.changing)) == set(named(plain.shapes.changing))
    assert taught.num_parameters == plain.num_parameters
    _, shapes, _ = state.abstract(OTHER, "float32", "none")
    assert set(named(taught.shapes.teacher)) == set(named(shapes))
    assert plain.shapes.teacher is None and plain.teacher is None


def test_adapters_learn_from_a_teacher_too(alone):
    """Their first gradient is B's alone, and the objective that of the base."""
    sums, grads = gradients(tiny.uneven_batch(ROWS, LENGTH), rank=4)
    tiny.assert_trees_close(sums, alone[0])
    flat = {".".join(at): leaf for at, leaf in flatten_mapping(grads).items()}
    moved = {name for name, leaf in flat.items() if np.abs(leaf).max() > 0}
    assert moved == {name for name in flat if name.endswith("_lora.b")} and moved


def test_the_laws_are_measured_with_a_teacher_like_the_runs():
    made = bench.make_bench(asked(config.Mesh(fsdp=8)), tiny.SETTINGS, teacher_of(OTHER))
    assert made.teacher.settings.embed_dim == OTHER.embed_dim
    assert made.teacher.settings.num_layers == bench.MAX_LAYERS < OTHER.num_layers
    by_one, by_another = (
        laws._gradients(one, one.rows, one.mesh, 1)
        for one in (made, dataclasses.replace(made, teacher_params=zeros(made.teacher_params)))
    )
    assert laws._difference(by_one, by_another) > 0.1


def zeros(params):
    return jax.tree.map(np.zeros_like, params)


@functools.cache
def compiled(settings):
    one, program, _ = program_of(settings)
    return mesh_program.compile_train_step(program, one)


def test_a_teacher_costs_its_forward_pass_and_no_activations():
    """Products of the step beside those of the step without: two a weight and token, its attention
    in plain products, and the head of one chunk, which is what the parser counts."""
    s, tokens = OTHER, ROWS * LENGTH
    flops = [cost.matmul_flops(hlo.parse(compiled(one).as_text())) for one in (OTHER, None)]
    attention = 2 * (s.num_heads + s.num_kv_heads) * s.head_dim * s.embed_dim
    body = s.num_layers * (attention + 3 * s.embed_dim * s.mlp_dim) * 2 * tokens
    pairs = s.num_layers * 2 * 2 * s.num_heads * s.head_dim * tokens * LENGTH
    head = 2 * 128 * s.embed_dim * s.vocab_size
    assert flops[0] - flops[1] == body + pairs + head
    temporaries = [compiled(one).memory_analysis().temp_size_in_bytes for one in (OTHER, None)]
    layer_inputs = s.num_layers * tokens * s.embed_dim * 4  # the least that a backward pass keeps
    assert temporaries[0] - temporaries[1] < layer_inputs
