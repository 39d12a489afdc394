"""Groups of rows times their matrices: values, gradients, and rows that belong to no group."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.errors import ConfigError
from jaxsft.kernels.experts import choose, grouped_dot, tiles
from jaxsft.kernels.experts.form import Use

ROWS, WIDTH, COLUMNS = 150, 6, 5
# Rows of each group: none, fewer than a tile, several tiles; and all rows or not.
SIZES = {
    "uneven": (3, 0, 70, 1, 33, 43),
    "one group": (0, 0, 150, 0, 0, 0),
    "unused rows": (0, 40, 0, 0, 50, 0),
    "no row": (0, 0, 0, 0, 0, 0),
    "tiny groups after a large one": (140, 1, 2, 1, 4, 2),
}


def inputs():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(ROWS, WIDTH)), rng.normal(size=(6, WIDTH, COLUMNS))
    return x.astype(np.float32), w.astype(np.float32)


def one_by_one(x, w, sizes):
    """The same by numpy's matmul, group by group."""
    ends = np.cumsum(sizes)
    parts = [
        x[end - size : end] @ w[e] for e, (end, size) in enumerate(zip(ends, sizes, strict=True))
    ]
    return np.concatenate([*parts, np.zeros((ROWS - ends[-1], w.shape[2]), np.float32)])


def weight_gradients(x, d_out, sizes):
    ends = np.cumsum(sizes)
    rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return np.stack([x[part].T @ d_out[part] for part in rows])


@pytest.fixture(scope="module", params=["tiled", "ragged"])
def value_and_gradients(request):
    def run(x, w, sizes, d_out):
        def dot(x, w):
            return grouped_dot.grouped_dot(x, w, sizes, request.param)

        out, back = jax.vjp(dot, x, w)
        return out, *back(d_out)

    return jax.jit(run)  # once for all sizes, which are data


@pytest.mark.parametrize("case", SIZES)
def test_each_group_is_multiplied_by_its_own_matrix(value_and_gradients, case):
    (x, w), sizes = inputs(), np.array(SIZES[case], np.int32)
    d_out = np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    out, d_x, d_w = value_and_gradients(x, w, sizes, d_out)
    close = dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out, one_by_one(x, w, sizes), **close)
    np.testing.assert_allclose(d_x, one_by_one(d_out, w.transpose(0, 2, 1), sizes), **close)
    np.testing.assert_allclose(d_w, weight_gradients(x, d_out, sizes), **close)


def test_what_stands_in_unused_rows_goes_nowhere(value_and_gradients):
    (x, w), sizes = inputs(), np.array(SIZES["unused rows"], np.int32)
    d_out = np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    expected = value_and_gradients(x, w, sizes, d_out)
    x[90:], d_out[90:] = np.nan, np.nan
    for actual, wanted in zip(value_and_gradients(x, w, sizes, d_out), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("case", SIZES)
def test_the_kernel_for_tpu_sums_each_groups_products(case, monkeypatch):
    """Interpreted, over several tiles of rows; unused rows hold anything finite."""
    monkeypatch.setattr(grouped_dot, "_KERNEL_TILE", (64, 8, 8))
    (x, _), sizes = inputs(), np.array(SIZES[case], np.int32)
    d_out = np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):  # the kernel's own code
        d_w = grouped_dot.kernel_weights(x, d_out, sizes, np.float32, interpret=True)
    expected = weight_gradients(x, d_out, sizes)
    np.testing.assert_allclose(d_w, expected, rtol=1e-5, atol=1e-5)


def test_the_kernel_for_tpu_is_not_interpreted_there():
    (x, w), sizes = inputs(), jnp.array(SIZES["uneven"], jnp.int32)

    def total(w):
        return grouped_dot.grouped_dot(x, w, sizes, "ragged").sum()

    program = str(jax.make_jaxpr(jax.grad(total))(w))
    assert "interpret=False" in program and "interpret=True" not in program


@jax.custom_vjp
def careless(x, w, sizes):
    """A dot that leaves anything in unused rows, as kernels may."""
    return jnp.where(unused(x, sizes), jnp.nan, jax.lax.ragged_dot(x, w, sizes))


def careless_backward(residuals, d_out):
    x, w, sizes = residuals
    d_x, d_w = jax.vjp(lambda x, w: jax.lax.ragged_dot(x, w, sizes), x, w)[1](d_out)
    return jnp.where(unused(x, sizes), jnp.nan, d_x), d_w, None


def unused(x, sizes):
    return (jnp.arange(x.shape[0]) >= jnp.sum(sizes))[:, None]


careless.defvjp(lambda x, w, sizes: (careless(x, w, sizes), (x, w, sizes)), careless_backward)


def test_what_a_back_end_leaves_in_unused_rows_goes_nowhere(monkeypatch):
    (x, w), sizes = inputs(), jnp.array(SIZES["unused rows"], jnp.int32)

    def dot(x, w):
        return grouped_dot.grouped_dot(x, w, sizes, "tiled")

    expected, back = jax.vjp(dot, x, w)
    d_out = np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    monkeypatch.setattr(tiles, "tiled_dot", careless)
    actual, careless_back = jax.vjp(dot, x, w)
    close = dict(rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(actual, expected, **close)
    for got, wanted in zip(careless_back(d_out), back(d_out), strict=True):
        np.testing.assert_allclose(got, wanted, **close)


def test_tiles_are_few_for_large_groups_and_small_for_small_ones():
    assert tiles.tile_rows(100, 64) == 32
    assert tiles.tile_rows(65536, 128) == 256  # a quarter of an even group is 128 rows
    assert tiles.tile_rows(65535, 128) == 128  # and here hardly less
    assert tiles.tile_rows(10**6, 8) == 512


@pytest.mark.parametrize("name", ["raged", "Ragged"])
def test_a_back_end_that_is_not_there_is_refused(name):
    expected = "expected auto, tiled or ragged or triton or dense"
    with pytest.raises(ConfigError, match=f"config.model.experts={name}: {expected}"):
        choose.choose(name, use("tpu"), None)


def use(platform):
    return Use(platform=platform, embed_dim=16, mlp_dim=32, dtype="bfloat16")


def test_ragged_dot_is_not_chosen_where_it_has_no_kernel():
    platforms = ("cpu", "gpu", "tpu")
    chosen = {platform: choose.choose("auto", use(platform), None)[0] for platform in platforms}
    assert chosen == {"cpu": "tiled", "gpu": "triton", "tpu": "ragged"}
    float32 = dataclasses.replace(use("gpu"), dtype="float32")
    name, reason = choose.choose("auto", float32, None)
    assert name == "tiled" and reason.startswith("not triton: can't do dtype float32; ")
    asked = "asked for by config.model.experts"
    assert choose.choose("ragged", use("cpu"), None) == ("ragged", asked)
