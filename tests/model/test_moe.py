"""Laws of the mixture of experts: no token is dropped, none sees another, meshes change nothing."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.experts import gated_mlps as kernel
from jaxsft.model import moe, moe_settings

D, E, X, F = 16, 8, 2, 12
PLAIN = moe_settings.MoeSettings(
    num_experts=E,
    experts_per_token=X,
    expert_mlp_dim=F,
    normalised_shares=False,
    shared_mlp_dim=20,
    init_stddev=0.3,
)
CLAMPED = dataclasses.replace(
    PLAIN,
    normalised_shares=True,
    shared_mlp_dim=None,
    expert_biases=True,
    router_bias=True,
    clamped_swiglu=moe_settings.ClampedSwiGLU(alpha=1.702, limit=1.5),
)
SETTINGS = {"plain": PLAIN, "clamped": CLAMPED}
ALL = dataclasses.replace(CLAMPED, shared_mlp_dim=20)  # each parameter that there can be
ROWS, LENGTH = 8, 14  # no length is that of a weight


def random_params(settings):
    """All parameters random, biases too, on the host."""
    shapes = jax.eval_shape(
        lambda: nnx.to_pure_dict(nnx.state(moe.Moe(settings, D, rngs=nnx.Rngs(0))))
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: 0.4 * rng.normal(size=s.shape).astype(np.float32), shapes)


def inputs():
    rng = np.random.default_rng(1)
    x, direction = (rng.normal(size=(ROWS, LENGTH, D)).astype(np.float32) for _ in range(2))
    segments = np.ones((ROWS, LENGTH), np.int32)
    segments[:, 9:], segments[3] = 0, 0  # the end of each row, and a whole row, are padding
    return x, direction, segments


def split(settings):
    return nnx.split(nnx.eval_shape(lambda: moe.Moe(settings, D, rngs=nnx.Rngs(0))))


@functools.partial(jax.jit, static_argnums=0)
def apply(settings, params, x, segments=None):
    return nnx.merge(split(settings)[0], params)(jnp.asarray(x), segments)


def loss(settings, params, x, direction, segments):
    """Of real tokens only, as in training, with the router's loss; and what else came out."""
    y_BTD, stats = apply(settings, params, x, segments)
    real = (segments > 0)[:, :, None]
    value = jnp.sum(y_BTD * direction * real) + 0.5 * moe.load_balancing_loss(stats)
    return value, (y_BTD * real, stats)


def value_and_gradients(settings, params, x, direction, segments):
    def run(params, x):
        return loss(settings, params, x, direction, segments)

    return jax.value_and_grad(jax.checkpoint(run), (0, 1), has_aux=True)(params, x)


@pytest.fixture(scope="module")
def reference():
    """Every expert on every token, on one device."""
    made = {}
    for name, settings in (SETTINGS | {"all": ALL}).items():
        dense = dataclasses.replace(settings, back_end="dense")
        made[name] = jax.jit(value_and_gradients, static_argnums=0)(
            dense, random_params(settings), *inputs()
        )
    return jax.device_get(made)


@pytest.mark.parametrize("back_end", ["tiled", "ragged"])
@pytest.mark.parametrize("name", SETTINGS)
def test_back_ends_agree(reference, name, back_end):
    settings = dataclasses.replace(SETTINGS[name], back_end=back_end)
    actual = jax.jit(value_and_gradients, static_argnums=0)(
        settings, random_params(settings), *inputs()
    )
    tiny.assert_trees_close(jax.device_get(actual), reference[name])


MESHES = {
    "fsdp": (config.Mesh(fsdp=8), "tiled"),
    "tensor": (config.Mesh(fsdp=2, context=2, tensor=2), "tiled"),
    "expert": (config.Mesh(fsdp=2, expert=4), "tiled"),
    "ragged": (config.Mesh(fsdp=2, expert=2, tensor=2), "ragged"),
    "dense": (config.Mesh(fsdp=2, expert=2, tensor=2), "dense"),
}


def on_mesh(settings, sizes):
    over = mesh.make_mesh(sizes)
    axes = {path: v.get_metadata()["axes"] for path, v in nnx.to_flat_state(split(settings)[1])}
    params = random_params(settings)

    def place(path, value):
        names = axes[tuple(key.key for key in path)]
        mesh.check_divisible(str(path), value.shape, names, over.shape)
        return jax.device_put(value, mesh.sharding(over, *names))

    placed = jax.tree.map_with_path(place, params)
    x, direction, segments = inputs()
    rows = mesh.sharding(over, "batch", "sequence")
    with jax.set_mesh(over):
        arguments = (placed, *jax.device_put((x, direction, segments), rows))
        step = jax.jit(value_and_gradients, static_argnums=0).lower(settings, *arguments).compile()
        return jax.device_get(step(*arguments)), step.as_text()


@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_changes_nothing(reference, name):
    sizes, back_end = MESHES[name]
    actual, program = on_mesh(dataclasses.replace(ALL, back_end=back_end), sizes)
    tiny.assert_trees_close(actual, reference["all"])
    if back_end != "dense" and sizes.expert == 1:
        # Weights are gathered, tokens are not: none has rows and positions in front.
        gathered = re.findall(r"f32\[(\d+),(\d+),\d+\]\S* all-gather", program)
        assert not [shape for shape in gathered if shape[1] == str(LENGTH)]


def test_a_row_that_the_mesh_does_not_divide_is_computed_whole():
    params, x = random_params(PLAIN), jnp.asarray(inputs()[0][:1, :5])
    with jax.set_mesh(mesh.make_mesh(config.Mesh(fsdp=2, context=2, expert=2))):
        chosen, shares = kernel.top_k(x[:, :, :E], X)[1], jnp.ones((1, 5, X))
        weights = kernel.Experts(*(params[name] for name in ("gate_EDF", "up_EDF", "down_EFD")))
        mixed = [
            jax.jit(kernel.mix, static_argnums=(4, 5))(x, chosen, shares, weights, jnp.add, name)
            for name in ("tiled", "dense")
        ]
    np.testing.assert_allclose(*mixed, rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing_and_is_not_counted():
    x, direction, segments = inputs()
    params = random_params(PLAIN)
    run = jax.jit(value_and_gradients, static_argnums=0)
    (value, (y, stats)), (d_params, d_x) = run(PLAIN, params, x, direction, segments)
    garbage = np.where(segments[:, :, None] > 0, x, 1e4 * direction)
    (after, (y_after, stats_after)), (d_after, d_x_after) = run(
        PLAIN, params, garbage, direction, segments
    )
    tiny.assert_trees_equal(
        jax.device_get((value, y, stats, d_params, d_x)),
        jax.device_get((after, y_after, stats_after, d_after, d_x_after)),
    )
    assert stats.tokens == np.sum(segments > 0)
    assert jnp.sum(stats.assignments_E) == X * stats.tokens
    assert not np.any(np.asarray(d_x)[segments == 0])


def test_no_token_is_dropped_however_many_choose_one_expert():
    params = random_params(CLAMPED)
    params["router_bias_E"][:] = [0, 0, 0, 99, 0, 0, 90, 0]
    x = inputs()[0]
    y, stats = apply(CLAMPED, params, x)
    np.testing.assert_array_equal(np.asarray(stats.assignments_E)[[3, 6]], ROWS * LENGTH)
    assert jnp.sum(stats.assignments_E) == X * ROWS * LENGTH

    alone = dataclasses.replace(CLAMPED, num_experts=1, experts_per_token=1)
    names = ("gate_EDF", "up_EDF", "down_EFD", "gate_bias_EF", "up_bias_EF", "down_bias_ED")
    only = {name: params[name][3:4] for name in names}
    only |= {"router_DE": params["router_DE"][:, 3:4], "router_bias_E": np.zeros(1, np.float32)}
    shares = jax.nn.softmax(x @ params["router_DE"][:, [3, 6]] + jnp.array([[[99.0, 90.0]]]))
    others = {name: params[name][6:7] for name in names} | {
        key: only[key] for key in ("router_DE", "router_bias_E")
    }
    expected = (
        shares[..., :1] * apply(alone, only, x)[0] + shares[..., 1:] * apply(alone, others, x)[0]
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_tokens_do_not_see_each_other():
    params, x = random_params(PLAIN), inputs()[0]
    order = np.random.default_rng(2).permutation(ROWS * LENGTH)
    shuffled = x.reshape(-1, D)[order].reshape(x.shape)
    y, y_shuffled = (np.asarray(apply(PLAIN, params, one)[0]) for one in (x, shuffled))
    np.testing.assert_allclose(
        y_shuffled.reshape(-1, D), y.reshape(-1, D)[order], rtol=1e-5, atol=1e-6
    )


def test_of_equal_logits_the_first_experts_win():
    """torch.topk promises no order among equals; what it does differs by device and size."""
    params = random_params(PLAIN)
    params["router_DE"][:] = 0
    _, stats = apply(PLAIN, params, inputs()[0])
    np.testing.assert_array_equal(stats.assignments_E, [ROWS * LENGTH] * X + [0] * (E - X))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_token_uses_its_active_parameters(name):
    """Those that have a gradient; a normalised share has none by the logits of other experts."""
    settings = dataclasses.replace(SETTINGS[name], normalised_shares=False)
    # Away from the clamps, behind which there is no gradient.
    x = jax.random.normal(jax.random.key(0), (1, 1, D)) * 0.1
    params = jax.tree.map(lambda leaf: 0.3 * leaf, random_params(settings))
    gradient = jax.grad(lambda params: jnp.sum(apply(settings, params, x)[0]))(params)
    used = sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(gradient))
    assert used == moe_settings.active_parameters(settings, D)


def test_bfloat16_stays_within_bfloat16():
    params, x = random_params(PLAIN), inputs()[0]
    half = jnp.asarray(x, jnp.bfloat16)
    y, stats = apply(PLAIN, params, half)
    expected, wanted = apply(PLAIN, params, half.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    # The router runs in float32 whatever the model's dtype, so the experts are the same.
    tiny.assert_trees_equal(*jax.tree.map(np.asarray, (stats, wanted)))
    assert np.abs(y.astype(np.float32) - expected).max() < 2e-2 * np.abs(expected).max()
