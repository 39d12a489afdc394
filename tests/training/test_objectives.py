"""What a step minimises beside the plain loss: its laws, and its parts by their definitions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxsft import config
from jaxsft.config import Loss
from jaxsft.data.pack import packing
from jaxsft.data.pack.reweight import Reweighting
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.form import Targets
from jaxsft.model import moe, moe_settings, noise, state
from jaxsft.training import optim, over_mesh, preflight, router_loss, step
from jaxsft.training.batch import Batch
from jaxsft.training.loss_settings import loss_form, with_loss
from jaxsft.training.schedule import make_schedule
from tests.training.test_mesh_fit import config as config_of_a_run

MOE = moe_settings.MoeSettings(
    num_experts=6,
    experts_per_token=2,
    expert_mlp_dim=24,
    normalised_shares=True,
    init_stddev=0.2,
)
MIXTURE = dataclasses.replace(tiny.SETTINGS, moe=MOE)
ALL = Loss(
    reduction="example_mean",
    label_smoothing=0.1,
    z_loss=0.01,
    neftune_alpha=5.0,
    router_balance=0.5,
    router_z=0.05,
)
NEFTUNE = Loss(neftune_alpha=5.0)


def recipe_of(loss, model=tiny.SETTINGS, microbatches=1):
    s = with_loss(model, loss)
    graphdef, _, _ = state.abstract(s, "float32", "none")
    return step.Recipe(
        graphdef,
        optim.make_optimizer(tiny.OPTIM),
        make_schedule(tiny.OPTIM, 9),
        microbatches,
        max_grad_norm=None,
        loss_form=loss_form(s, loss=loss),
        routers=router_loss.router_losses(loss, s),
        noise_seed=None if loss.neftune_alpha is None else 5,
    )


@functools.cache
def _program(loss_fields, sizes, microbatches, model):
    """The mesh, where parameters lie, and the gradient; compiled once for batches of one shape."""
    over = mesh_lib.make_mesh(sizes, jax.devices()[:1] if sizes == tiny.ONE_DEVICE else None)
    recipe = recipe_of(Loss(**dict(loss_fields)), model, microbatches)
    _, shapes, axes = state.abstract(model, "float32", "none")

    def compute(params, batch, at):
        return step.gradient_sums(recipe, params, step.with_keys(recipe, batch, at))

    return over, state.shardings(shapes, axes, over), jax.jit(compute)


def gradients(loss, batch, sizes=tiny.ONE_DEVICE, microbatches=1, model=tiny.SETTINGS, at=3):
    """Sums and gradients of step `at`, over the weight that divides them."""
    fields = tuple((name, value) for name, value in vars(loss).items() if value != {})
    over, placement, compute = _program(fields, sizes, microbatches, model)
    with jax.set_mesh(over):
        params = jax.device_put(tiny.host_params(model), placement)
        rows = jax.device_put(batch, over_mesh.batch_sharding(over))
        (sums, routing_L), grads = jax.device_get(compute(params, rows, at))
    return sums, routing_L, jax.tree.map(lambda leaf: leaf / sums.minimised_weight, grads)


LENGTHS = [5, 9, 20, 3, 14, 11, 27, 7, 30, 4, 6, 25, 8, 16, 12, 10]


def rows_of(plan, loss, count=16, length=32):
    made = tiny.conversations(LENGTHS)
    numbers = [*range(plan.num_rows), *[packing.PADDING_ROW] * (count - plan.num_rows)]
    sources = (config.Source(path="a.jsonl"),)
    return Batch(
        **packing.build_rows(
            lambda at: [made[i] for i in at],
            plan,
            numbers,
            length,
            reweighting=Reweighting.of(loss, sources, np.zeros(len(made), int)),
            numbered=loss.neftune_alpha is not None,
        )
    )


def packed(loss):
    return rows_of(packing.plan_rows(np.array(LENGTHS), 32, seed=0, epoch=0), loss)


@pytest.fixture(scope="module")
def alone():
    """All losses at once, of a mixture on one device in one part."""
    return gradients(ALL, packed(ALL), model=MIXTURE)


@pytest.mark.parametrize(
    "how",
    [
        {"microbatches": 4},
        {"sizes": config.Mesh(fsdp=8), "microbatches": 2},
        {"sizes": config.Mesh(context=2, expert=2, tensor=2)},
    ],
    ids=str,
)
def test_how_the_work_is_divided_changes_nothing(alone, how):
    sums, routing_L, grads = gradients(ALL, packed(ALL), model=MIXTURE, **how)
    tiny.assert_trees_close(sums, alone[0])
    tiny.assert_trees_close(routing_L, alone[1])
    tiny.assert_trees_close(grads, alone[2])


def test_packing_changes_nothing(alone):
    """Nor the length or the order of rows: the noise of a token is its example's."""
    one_each = packing.one_per_row(np.array(LENGTHS))
    for batch in (
        rows_of(one_each, ALL, length=40),
        jax.tree.map(lambda a: a[::-1].copy(), packed(ALL)),
    ):
        sums, _, grads = gradients(ALL, batch, model=MIXTURE)
        tiny.assert_trees_close(sums, alone[0])
        tiny.assert_trees_close(grads, alone[2])


def test_a_step_takes_the_mean_of_what_is_minimised_with_its_own_noise():
    loss = Loss(reduction="example_mean", neftune_alpha=5.0)
    recipe, batch = recipe_of(loss), packed(loss)
    start = step.init_state(recipe, jax.tree.map(jnp.asarray, tiny.host_params()))
    start = dataclasses.replace(start, step=jnp.int32(7))
    _, metrics = jax.jit(functools.partial(step.train_step, recipe))(start, batch)
    sums, _, grads = gradients(loss, batch, at=7)
    tiny.assert_trees_close(jax.device_get(metrics.sums), sums)
    length = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics.grad_norm, length, rtol=1e-5)


def test_each_example_counts_the_same(alone):
    """The objective is the mean of the examples' mean losses."""
    loss = Loss(reduction="example_mean")
    batch = packed(loss)
    own = batch.objective_weights_BT
    for row in range(16):
        for segment in range(1, batch.segments_BT[row].max() + 1):
            total = own[row, batch.segments_BT[row] == segment].sum()
            np.testing.assert_allclose(total, 1, rtol=1e-6)
    sums, _, _ = gradients(loss, batch)
    assert sums.objective_weight == pytest.approx(len(LENGTHS), rel=1e-6)
    model = nnx.merge(recipe_of(loss).graphdef, jax.tree.map(jnp.asarray, tiny.host_params()))
    arrays = jax.tree.map(jnp.asarray, batch)
    targets = Targets(arrays.targets_BT, arrays.weights_BT, None, arrays.segments_BT)
    form = loss_form(tiny.SETTINGS, num_segments=8)
    by_segment = jax.jit(
        lambda *inputs: cross_entropy(model.hidden(*inputs), model.head(), targets, form)[1]
    )(arrays.tokens_BT, arrays.segments_BT, arrays.positions_BT)
    there_BM = by_segment.weight_BM > 0
    assert there_BM.sum() == len(LENGTHS)
    means = by_segment.nll_BM[there_BM] / by_segment.weight_BM[there_BM]
    np.testing.assert_allclose(sums.objective / sums.objective_weight, means.mean(), rtol=1e-5)
    plain = gradients(Loss(), packed(Loss()))[0]
    assert plain.nll == pytest.approx(float(sums.nll), rel=1e-6) and plain.objective is None
    assert abs(sums.objective / len(LENGTHS) - plain.nll / plain.weight) > 1e-3


def test_router_losses_are_those_of_the_whole_batch():
    """As autodiff gives them of their definition, which knows no parts."""
    loss = Loss(router_balance=0.7, router_z=0.3)
    batch = packed(loss)
    sums, routing_L, grads = gradients(loss, batch, model=MIXTURE, microbatches=2)
    pooled = jax.tree.map(lambda leaf_L: leaf_L.sum(axis=0), routing_L)
    balance = moe.load_balancing_loss(pooled)  # which is that of transformers
    z = pooled.square_log_sum / pooled.tokens
    assert balance > 2 and z > 0.1  # or nothing would be seen
    expected = sums.nll / sums.weight + 0.7 * balance + 0.3 * z
    np.testing.assert_allclose(sums.objective / sums.objective_weight, expected, rtol=1e-5)

    recipe = recipe_of(loss, MIXTURE)

    def defined(params):
        model = nnx.merge(recipe.graphdef, params)
        inputs = batch.tokens_BT, batch.segments_BT, batch.positions_BT
        hidden_BTD, routing_L = model.hidden_and_routing(*map(jnp.asarray, inputs))
        logits_BTV = hidden_BTD @ model.head()
        label_BT = jnp.take_along_axis(
            jax.nn.log_softmax(logits_BTV), jnp.asarray(batch.targets_BT)[..., None], axis=-1
        )[..., 0]
        pooled = jax.tree.map(lambda leaf_L: leaf_L.sum(axis=0), routing_L)
        mean = -jnp.sum(batch.weights_BT * label_BT) / jnp.sum(batch.weights_BT)
        z = pooled.square_log_sum / pooled.tokens
        return mean + 0.7 * moe.load_balancing_loss(pooled) + 0.3 * z, mean

    expected, mean = jax.jit(jax.grad(defined, has_aux=True))(tiny.host_params(MIXTURE))
    np.testing.assert_allclose(sums.nll / sums.weight, mean, rtol=1e-6)
    tiny.assert_trees_close(grads, jax.device_get(expected), rtol=2e-5)


def test_padding_is_in_no_loss(alone):
    batch = packed(ALL)
    changed = dataclasses.replace(
        batch, tokens_BT=np.where(batch.segments_BT == 0, 7, batch.tokens_BT)
    )
    assert (changed.tokens_BT != batch.tokens_BT).any()
    assert gradients(ALL, changed, model=MIXTURE)[0].objective == alone[0].objective


def forward_passes(loss, microbatches):
    """Loops over micro-batches in the traced gradient."""
    recipe, batch = recipe_of(loss, MIXTURE, microbatches), packed(loss)
    _, shapes, _ = state.abstract(MIXTURE, "float32", "none")
    traced = jax.make_jaxpr(lambda params: step.gradient_sums(recipe, params, batch))(shapes)
    return sum(
        one.primitive.name == "scan" and one.params["length"] == microbatches for one in traced.eqns
    )


def test_only_a_balance_loss_of_several_parts_costs_a_pass():
    assert forward_passes(Loss(router_balance=0.1), 4) == 2
    assert forward_passes(Loss(router_z=0.1), 4) == 1


def test_the_coefficient_is_the_users_or_that_of_a_config_that_asks():
    def found(**fields):
        loss = Loss(**fields)
        notes = router_loss.router_notes(loss, asking, 1)
        assert len(notes) == 1
        return router_loss.router_losses(loss, asking), notes[0]

    asking = dataclasses.replace(
        MIXTURE, moe=dataclasses.replace(MOE, balances=True, balance_coefficient=0.02)
    )
    losses, note = found()
    assert losses == router_loss.RouterLosses(0.02, 0.0)
    assert "router_aux_loss_coef=0.02" in note and "router_balance=0 switches it off" in note
    assert found(router_balance=0.0)[0] is None
    assert found(router_balance=0.3)[0] == router_loss.RouterLosses(0.3, 0.0)
    assert "x 0.3, by config.loss.router_balance" in found(router_balance=0.3)[1]
    (_, cost) = router_loss.router_notes(Loss(), asking, 4)
    assert cost.startswith("4 micro-batches: each step has a forward pass more")
    assert router_loss.router_losses(Loss(), MIXTURE) is None
    (note,) = router_loss.router_notes(Loss(), MIXTURE, 4)
    assert "router_balance=0.001 switches it on" in note
    assert router_loss.router_notes(Loss(), tiny.SETTINGS, 4) == []


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (Loss(router_balance=0.25), "config.loss.router_balance=0.25: the model has no experts"),
        (Loss(router_z=0.5), "config.loss.router_z=0.5: the model has no experts"),
        (
            Loss(source_weights={"b": 2.0}),
            r"source_weights=\{'b': 2.0\}: no source .*there are tra",
        ),
        (Loss(source_weights={"train": 2.0}), r"\{'train': 2.0\}: is the only source"),
    ],
    ids=str,
)
def test_losses_of_what_is_not_there_are_refused(loss, match):
    run = config_of_a_run()
    data = dataclasses.replace(run.data, train=(config.Source(path="train.jsonl"),))
    asked = dataclasses.replace(run, data=data, loss=loss)
    with pytest.raises(ConfigError, match=match):
        preflight.check_config(asked, tiny.SETTINGS)


def test_noise_is_the_tokens_own_and_of_its_length():
    """As large as the paper says, by the example's length; the same in whatever row it stands."""
    examples = jnp.array([[4, 4, 4, 9, 0, 0], [9, 3, 3, 3, 3, 3]])
    segments = jnp.array([[1, 1, 1, 2, 0, 0], [1, 2, 2, 2, 2, 2]])
    positions = jnp.array([[0, 1, 2, 0, 0, 0], [0, 0, 1, 2, 3, 4]])
    lengths, dim = jnp.array([[3, 3, 3, 1, 1, 1], [1, 5, 5, 5, 5, 5]]), 4096

    def at(seed, number, alpha=5.0):
        keys = noise.token_keys(seed, number, examples, positions)
        zeros = jnp.zeros((2, 6, dim))
        return np.asarray(noise.noisy(zeros, keys, segments, lengths, alpha))

    found = at(0, 1)
    most = 5 / np.sqrt(dim * np.asarray(lengths))
    real = np.asarray(segments) > 0
    largest = np.abs(found).max(axis=-1)
    assert (largest <= most).all() and (largest[real] > 0.99 * most[real]).all()
    np.testing.assert_allclose(found[real].std(axis=-1), most[real] / np.sqrt(3), rtol=0.05)
    assert (np.abs(found[real].mean(axis=-1)) < 0.05 * most[real]).all()
    assert not found[~real].any()
    np.testing.assert_array_equal(found[0, 3], found[1, 0])  # one token of one example
    assert len(np.unique(found[real], axis=0)) == real.sum() - 1  # all others differ
    for other in (at(1, 1), at(0, 2)):
        assert (other[real] != found[real]).mean() > 0.99
    np.testing.assert_allclose(at(0, 1, alpha=10.0), 2 * found, rtol=1e-6)


def test_streams_of_a_token_differ():
    keys = noise.token_keys(0, 0, jnp.ones((1, 1), int), jnp.zeros((1, 1), int))
    streams = [noise.uniform(keys, stream, 64) for stream in range(3)]
    assert len(np.unique(np.concatenate(streams))) == 3 * 64


def test_noise_is_in_training_alone():
    """A batch without keys, as evaluation has it, is computed as if there were no noise."""
    batch = packed(NEFTUNE)
    evaluated = functools.partial(over_mesh.jit_eval_step, mesh=mesh_lib.single_device_mesh())
    params = tiny.host_params()
    with jax.set_mesh(mesh_lib.single_device_mesh()):
        found = []
        for loss in (NEFTUNE, Loss()):
            graphdef = recipe_of(loss).graphdef
            _, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
            placement = state.shardings(shapes, axes, mesh_lib.single_device_mesh())
            run = evaluated(graphdef, loss_form(tiny.SETTINGS), placement)
            found.append(run(params, dataclasses.replace(batch, examples_BT=None)).nll)
    assert found[0] == found[1]
    trained = gradients(NEFTUNE, batch)[0]
    assert abs(trained.nll - found[0]) > 1e-3 * found[0]
    assert gradients(NEFTUNE, batch, at=4)[0].nll != trained.nll
    np.testing.assert_allclose(gradients(Loss(), packed(Loss()))[0].nll, found[0], rtol=1e-6)
