"""Weights in 8 and 4 bits: the numbers that they may be, and a model that computes with them."""

import dataclasses
import functools
import itertools
import math
import re
from concurrent.futures import ThreadPoolExecutor

import adapted
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_layer_stacks
import test_moe
import tiny
from flax import nnx
from scipy.stats import norm

from jaxsft.config import Lora, Mesh
from jaxsft.convert.tensors import host_quantised
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.model import quantised, state
from jaxsft.model.quantised import KINDS, Quantised
from jaxsft.training import parameters

MIXTURE = dataclasses.replace(
    test_layer_stacks.TURNS, moe=dataclasses.replace(test_moe.ALL, num_experts=4)
)
MODELS = {"plain": tiny.SETTINGS, "mixture": MIXTURE}
# Shape, inputs, outputs: of a query, an attention's output, experts of two layers.
SHAPES = [((192, 3, 16), 1, 2), ((3, 96, 40), 2, 1), ((2, 4, 64, 24), 1, 1)]


def normal(shape, seed=0):
    """With a scale of its own for each output."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.uniform(0.1, 2, size=shape[-1])).astype(np.float32)


def numbers(weight):
    return np.asarray(jax.tree.map(jnp.asarray, weight).astype(jnp.float32))


def test_the_numbers_of_nf4_are_the_papers():
    """Appendix E of arXiv:2305.14314: quantiles at equal steps on either side of 0."""
    end = (1 - 1 / 32 + 1 - 1 / 30) / 2
    above = norm.ppf(np.linspace(end, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([below, [0.0], above]))
    np.testing.assert_allclose(quantised.NF4, expected / expected.max(), atol=2e-6)


@pytest.mark.parametrize(("shape", "inputs", "outputs"), SHAPES)
def test_each_number_is_the_nearest_that_there_is(shape, inputs, outputs):
    weight = normal(shape)
    kept = quantised.quantised(weight, "nf4", inputs, outputs)
    found = numbers(kept)
    at = len(shape) - outputs - 1
    size = quantised.block_of(shape[at])
    blocks = [np.split(x, shape[at] // size, axis=at) for x in (weight, found)]
    scales = np.moveaxis(np.asarray(jax.tree.map(jnp.asarray, kept)._scales()), at, 0)
    for exact, rounded, scale in zip(*blocks, scales, strict=True):
        scale = np.expand_dims(scale, at)
        nearest = np.abs(exact[..., None] - scale[..., None] * np.float32(quantised.NF4)).min(-1)
        np.testing.assert_allclose(np.abs(exact - rounded), nearest, atol=1e-6)
        largest = np.abs(exact).max(axis=at, keepdims=True)
        spread = float(np.ptp(np.asarray(scales)))
        assert np.all(np.abs(scale - largest) <= spread / 400)  # 8 bits for each output's scales


@pytest.mark.parametrize(("shape", "inputs", "outputs"), SHAPES)
def test_each_number_is_the_nearest_of_eight_bits(shape, inputs, outputs):
    weight = normal(shape)
    kept = quantised.quantised(weight, "int8", inputs, outputs)
    at = len(shape) - outputs - 1
    size = quantised.block_of(shape[at])
    blocks = [np.split(x, shape[at] // size, axis=at) for x in (weight, numbers(kept))]
    scales = np.moveaxis(np.asarray(kept.scales, np.float32), at, 0)
    for exact, rounded, scale in zip(*blocks, scales, strict=True):
        scale = np.expand_dims(scale, at)
        steps = np.arange(-127, 128, dtype=np.float32)
        nearest = np.abs(exact[..., None] - scale[..., None] * steps).min(-1)
        np.testing.assert_allclose(np.abs(exact - rounded), nearest, atol=1e-6)
        largest = np.abs(exact).max(axis=at, keepdims=True)
        np.testing.assert_allclose(127 * scale, largest, rtol=2**-8)  # scales are bfloat16


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "inputs", "outputs"), SHAPES)
def test_shape_bits_and_zeros_are_kept(kind, shape, inputs, outputs):
    weight = normal(shape)
    weight[..., 0] = 0
    kept = quantised.quantised(weight, kind, inputs, outputs)
    assert (kept.shape, kept.ndim) == (shape, len(shape))
    np.testing.assert_array_equal(numbers(kept)[..., 0], 0)
    num_bytes = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(kept.codes))
    assert num_bytes == weight.size // (2 if kind == "nf4" else 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "inputs", "outputs"), SHAPES)
def test_in_slices_on_the_host_it_is_the_same(kind, shape, inputs, outputs, monkeypatch):
    monkeypatch.setattr(host_quantised, "_CHUNK_ITEMS", 3 * np.prod(shape[-inputs - outputs : -1]))
    weight = normal(shape)
    whole = quantised.quantised(weight, kind, inputs, outputs)
    with ThreadPoolExecutor(2) as threads:
        parts = host_quantised.of_tensor(weight, whole, threads)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_not_finite_are_seen(kind):
    weight = normal((64, 8))
    made = quantised.quantised(weight, kind, 1, 1)
    assert host_quantised.is_finite(made)
    for bad in (np.nan, np.inf):
        weight[3, 5] = bad
        with np.errstate(invalid="ignore"):
            made = quantised.quantised(weight, kind, 1, 1)
        assert not host_quantised.is_finite(made)


def kept_model(model, kind):
    """A model's parameters with adapters that do something, quantised, and the same as arrays."""
    declared = parameters.declare(adapted.config_of(kind), model)
    assert declared.adapters is not None
    params, made = adapted.with_adapters(model, Lora(rank=2), tiny.host_params(model))
    kept = state.as_kept(adapted.disturbed(params, made.frozen), declared.shapes)
    arrays = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if quantised.is_weight(leaf) else leaf,
        kept,
        is_leaf=quantised.is_weight,
    )
    return declared, kept, arrays


def loss(graphdef, tokens_BT, trained, frozen):
    logits = state.model_of(graphdef, state.merged(trained, frozen))(tokens_BT)
    return jnp.mean(jnp.sin(logits)), logits


@pytest.mark.parametrize(("name", "kind"), [("plain", "int8"), ("mixture", "nf4")])
def test_it_computes_as_with_the_numbers_that_the_codes_mean(name, kind):
    model = MODELS[name]
    declared, kept, arrays = kept_model(model, kind)
    flat = nnx.traversals.flatten_mapping(kept)
    few = {path[-1] for path, leaf in flat.items() if isinstance(leaf, Quantised)}
    assert {"q_DNH", "o_NHD"} <= few
    assert ("gate_EDF" if model.moe else "gate_DF") in few
    assert not few & {"embedding_VD", "head_DV", "router_DE"}
    tokens_BT = np.arange(16, dtype=np.int32).reshape(2, 8) % model.num_tokens
    run = jax.jit(
        jax.value_and_grad(functools.partial(loss, declared.graphdef, tokens_BT), has_aux=True)
    )
    (_, logits), grads = run(*state.split(kept, declared.frozen))
    (_, expected), expected_grads = run(*state.split(arrays, declared.frozen))
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_mesh_codes_are_gathered_and_no_stack_is_ever_whole(kind):
    """A query's one block of 64 can't be split in 4; its 64 numbers can."""
    model = dataclasses.replace(tiny.SETTINGS, embed_dim=64, num_layers=5)
    declared, kept, _ = kept_model(model, kind)
    mesh = mesh_lib.make_mesh(Mesh(fsdp=4, tensor=2), jax.devices()[:8])
    placement = state.shardings(declared.shapes, declared.axes, mesh)
    tokens_BT = np.arange(96, dtype=np.int32).reshape(4, 24) % model.num_tokens

    def gradients(params):
        run = functools.partial(loss, declared.graphdef, tokens_BT)
        return jax.grad(run, has_aux=True)(*state.split(params, declared.frozen))

    expected, logits = jax.jit(gradients)(kept)
    with jax.set_mesh(mesh):
        step = jax.jit(gradients).lower(jax.device_put(kept, placement)).compile()
        found, same = step(jax.device_put(kept, placement))
    text = step.as_text()
    np.testing.assert_allclose(same, logits, atol=1e-5)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    gathered = re.findall(r"= (\w+)\[[\d,]*\][^=]* all-gather(?:-start)?\(", text)
    assert ("u8" if kind == "nf4" else "s8") in gathered
    for path, leaf in nnx.traversals.flatten_mapping(declared.shapes).items():
        if isinstance(leaf, Quantised):  # no array could hold its layers' numbers, split or not
            shapes = "|".join(",".join(map(str, shape)) for shape in parts_of(leaf.shape))
            assert not re.search(rf"\b(f32|bf16)\[({shapes})\]", text), path


def parts_of(shape):
    """The shapes that a device may hold of a stack on the mesh above."""
    factors = [(1,), *((1, 2, 4) for _ in shape[1:])]
    for split in itertools.product(*factors):
        if math.prod(split) in (1, 2, 4, 8):
            yield tuple(size // by for size, by in zip(shape, split, strict=True))


def test_nothing_to_quantise_is_refused():
    config = dataclasses.replace(adapted.config_of("nf4"), lora=None)
    with pytest.raises(ConfigError, match="frozen_dtype=nf4: no weight of attention"):
        parameters.declare(config, tiny.SETTINGS)
