"""The experts' kernels for GPUs, interpreted: they equal products one by one, on a mesh too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.kernels.experts import (
    choose,
    gated_mlps,
    selftest,
    triton,
    triton_tiles,
    triton_tiling,
)
from jaxsft.kernels.experts.form import Use
from jaxsft.kernels.experts.triton_tiling import Tiling, Tilings
from jaxsft.model import remat
from tests.kernels.experts import test_experts as cases

# Each kernel has its own sizes, so small that there are several sweeps. Blocks as wide as 32 reach
# over the ends of a matrix of 48 x 80.
_SMALL = Tilings(Tiling(8, 32, 16, 4, 2), Tiling(64, 32, 16, 4, 2), Tiling(2, 32, 32, 4, 2))
_OTHER = Tilings(Tiling(64, 16, 8, 4, 2), Tiling(8, 16, 8, 4, 2), Tiling(32, 16, 16, 4, 2))
K, F = 48, 80
interpreted = functools.partial(triton.dot, interpret=True, tilings=_SMALL)
SIZES = cases.SIZES | {"whole tiles": (16, 64, 32, 0, 16, 22)}


def inputs():
    rng = np.random.default_rng(0)
    shapes = (cases.ROWS, K), (6, K, F), (cases.ROWS, F)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@functools.partial(jax.jit, static_argnums=4)  # once for all sizes, which are data
def value_and_gradients(x, w, sizes, d_out, tilings):
    out, back = jax.vjp(lambda x, w: triton.dot(x, w, sizes, True, tilings), x, w)
    return out, *back(d_out)


@pytest.mark.parametrize(
    ("case", "tilings"), [*((case, _SMALL) for case in SIZES), ("uneven", _OTHER)]
)
def test_each_group_is_multiplied_by_its_own_matrix(case, tilings):
    """Whatever stands in rows of no group."""
    (x, w, d_out), sizes = inputs(), np.array(SIZES[case], np.int32)
    x[sizes.sum() :] = d_out[sizes.sum() :] = np.nan
    out, d_x, d_w = value_and_gradients(x, w, sizes, d_out, tilings)
    close = dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out, cases.one_by_one(x, w, sizes), **close)
    np.testing.assert_allclose(d_x, cases.one_by_one(d_out, w.transpose(0, 2, 1), sizes), **close)
    np.testing.assert_allclose(d_w, cases.weight_gradients(x, d_out, sizes), **close)


@pytest.mark.parametrize("sizes", [*SIZES.values(), (1,) * 100])
@pytest.mark.parametrize("height", [1, 16, 64])
def test_tiles_hold_each_row_once_and_rows_of_one_expert(sizes, height):
    sizes, rows = np.array(sizes), cases.ROWS
    tiles = np.asarray(triton_tiles.of_rows(jnp.asarray(sizes), rows, height)).reshape(-1, 3)
    found = np.full(rows, -1)
    for expert, first, end in tiles:
        assert 0 <= end - first <= height and (found[first:end] == -1).all()
        found[first:end] = expert
    experts = np.arange(sizes.size + 1)
    np.testing.assert_array_equal(found, np.repeat(experts, [*sizes, rows - sizes.sum()]))


def test_tiles_of_the_docstring():
    tiles = triton_tiles.of_rows(jnp.asarray([3, 0, 5]), 10, 4)
    assert tiles.shape == (1, triton_tiles.SWEEP, 3)
    assert tiles[0, :5].tolist() == [[0, 0, 3], [2, 3, 7], [2, 7, 8], [3, 8, 10], [3, 0, 0]]


@pytest.mark.parametrize("policy", ["save_projections", "full"])
def test_products_run_no_more_often_than_their_results_are_lost(policy):
    """Gate and up once where they are kept; down never again, but for gradients of shares."""
    experts, x, chosen, shares = layer()

    def run(x, experts):
        return jnp.sum(gated_mlps.mix(x, chosen, shares, experts, gated, "triton"))

    kept = remat.remat(run, policy, {remat.Part.MLP_IN: ("gate", "up")})
    program = str(jax.make_jaxpr(jax.grad(kept, (0, 1)))(x, experts))
    again = 0 if policy == "save_projections" else 2
    assert program.count("name=rows") == 3 + again + 3
    assert program.count("name=weights") == 3
    assert "name=experts_rows" in program and "interpret=True" not in program


def layer():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(0.3 * rng.normal(size=shape), jnp.float32)

    experts = gated_mlps.Experts(
        normal(4, 16, 32), normal(4, 16, 32), normal(4, 32, 16), normal(4, 32), normal(4, 32)
    )
    chosen = jnp.asarray(rng.integers(0, 5, (8, 6, 2)), jnp.int32)  # 4 is no expert
    return experts, normal(8, 6, 16), chosen, normal(8, 6, 2)


def gated(gate, up):
    return jax.nn.silu(gate) * up


@pytest.mark.parametrize("sizes", [None, config.Mesh(fsdp=2, expert=2, tensor=2)])
def test_a_mixture_equals_every_expert_on_every_token(monkeypatch, sizes):
    """With biases; on a mesh each device has some experts and some of their columns."""
    monkeypatch.setattr(triton, "dot", interpreted)
    experts, x, chosen, shares = layer()
    direction = jnp.cos(jnp.arange(x.size).reshape(x.shape))

    @functools.partial(jax.jit, static_argnums=2)
    def run(x, experts, back_end):
        def total(x, experts):
            out = gated_mlps.mix(x, chosen, shares, experts, gated, back_end)
            return jnp.sum(out * direction), out

        return jax.value_and_grad(total, (0, 1), has_aux=True)(x, experts)

    expected = jax.device_get(run(x, experts, "dense"))
    if sizes is None:
        actual = run(x, experts, "triton")
    else:
        with jax.set_mesh(mesh_lib.make_mesh(sizes)):
            actual = run(x, experts, "triton")
    tiny.assert_trees_close(jax.device_get(actual), expected)


USE = Use(platform="gpu", embed_dim=32, mlp_dim=48, dtype="bfloat16")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"platform": "cpu"}, "runs on GPU only, and this is cpu"),
        ({"dtype": "float32"}, "can't do dtype float32"),
        ({"embed_dim": 40}, "can't do embed_dim=40, not a multiple of 16"),
        ({"mlp_dim": 8}, "can't do expert_mlp_dim on a device=8, not a multiple of 16"),
    ],
)
def test_what_it_can_not_do_is_refused(change, reason):
    with pytest.raises(ConfigError, match=f"config.model.experts=triton: {reason}"):
        choose.choose("triton", Use(**vars(USE) | change), None)


def test_without_a_device_it_is_not_tested():
    assert choose.choose("triton", USE, None) == (
        "triton",
        "asked for by config.model.experts, not tested: no such device here",
    )


def half_of_the_rows(x, w, sizes):
    return interpreted(x, w, sizes // 2)


def no_gradient_of_weights(x, w, sizes):
    return interpreted(x, jax.lax.stop_gradient(w), sizes)


@pytest.mark.parametrize("wrong", [half_of_the_rows, no_gradient_of_weights])
def test_what_multiplies_wrongly_is_refused(monkeypatch, wrong):
    monkeypatch.setattr(triton, "dot", wrong)
    use = Use(platform="gpu", embed_dim=32, mlp_dim=32, dtype="bfloat16")
    with pytest.raises(ConfigError, match="config.model.experts=triton: its test differs"):
        choose.choose("triton", use, jax.devices()[0])
    name, reason = choose.choose("auto", use, jax.devices()[0])
    assert name == "tiled" and reason.startswith("not triton: its test differs from tiles by ")


def test_what_multiplies_rightly_is_taken(monkeypatch):
    monkeypatch.setattr(triton, "dot", interpreted)
    name, reason = choose.choose("triton", USE, jax.devices()[0])
    assert name == "triton" and "tested: differs from tiles by 0.00" in reason
    name, reason = choose.choose("auto", USE, jax.devices()[0])
    assert name == "triton" and reason.startswith("the fastest that works on gpu, tested: ")


def test_what_does_not_compile_is_refused():
    """On a CPU this does not."""
    with pytest.raises(ConfigError, match="its test ended with ValueError: .*interpret"):
        choose.choose("triton", USE, jax.devices()[0])


@pytest.mark.gpu
def test_compiled_it_is_right():
    use = Use(platform="gpu", embed_dim=2048, mlp_dim=2880, dtype="bfloat16")
    assert selftest.difference(triton.dot, use, jax.devices()[0]) < selftest.ALLOWED


def test_blocks_divide_the_sides_of_matrices_if_they_are_not_small_then():
    sides = (14336, 768, 2880, 1408, 96, 48, 16)
    assert [triton_tiling.block(size, 256) for size in sides] == [256, 256, 128, 128, 128, 64, 16]
    assert [triton_tiling.block(size, 64) for size in sides] == [64, 64, 64, 64, 64, 64, 16]
    assert [triton_tiling.dividing(size, 64) for size in sides] == [64, 64, 64, 64, 32, 16, 16]
