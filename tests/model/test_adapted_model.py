"""Adapters: they change nothing at first, and then what their merged weights would change."""

import dataclasses
import functools

import adapted
import jax
import numpy as np
import pytest
import test_layer_stacks
import test_moe
import test_settings
import tiny

from jaxsft.config import Lora
from jaxsft.model import adapter, adapter_plan, state

EVERY = ("embedding", "attention", "mlp", "router", "head")
MIXTURE = dataclasses.replace(
    test_layer_stacks.TURNS, moe=dataclasses.replace(test_moe.ALL, num_experts=4)
)
MODELS = {
    "plain": tiny.SETTINGS,
    "tied": dataclasses.replace(tiny.SETTINGS, tied_embeddings=True),
    "everything": test_settings.EVERYTHING,
    "mixture": MIXTURE,
}


def names_in(model):
    names = EVERY if model.moe is None else (*EVERY, "experts")
    drop = {"router"} if model.moe is None else set()
    drop |= {"head"} if model.tied_embeddings else set()
    return tuple(name for name in names if name not in drop)


def start(model, asked):
    asked = dataclasses.replace(asked, targets=asked.targets or names_in(model))
    return adapted.with_adapters(model, asked, tiny.host_params(model))


def disturbed(model, asked):
    params, made = start(model, asked)
    return adapted.disturbed(params, made.frozen)


@functools.partial(jax.jit, static_argnums=(0, 1))
def logits(model, dtype, params, tokens):
    graphdef, _, _ = state.abstract(model, dtype, "none")
    return state.model_of(graphdef, params)(tokens)


def is_stack(leaf):
    return isinstance(leaf, adapter.MergedStack)


def whole(leaf):
    """Layer by layer, as an export asks for them."""
    return np.stack([leaf[i] for i in range(leaf.shape[0])]) if is_stack(leaf) else leaf


def tokens():
    return np.random.default_rng(1).integers(0, tiny.VOCAB, (2, 12)).astype(np.int32)


@pytest.mark.parametrize("init", ["default", "pissa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_at_first_the_model_is_its_base_to_the_last_bit(name, dtype, init):
    model = MODELS[name]
    params, _ = start(model, Lora(rank=1, init=init))
    base = jax.tree.map(jax.numpy.asarray, tiny.host_params(model))
    changed, plain = (logits(model, dtype, p, tokens()) for p in (params, base))
    np.testing.assert_array_equal(changed, plain)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        *((name, Lora(rank=3, alpha=6.0)) for name in MODELS),
        ("mixture", Lora(rank=1, init="pissa")),
        ("tied", Lora(rank=3, init="pissa", targets=("attention", "mlp"))),
        ("everything", Lora(rank=3, rslora=True, dora=True, targets=("attention", "mlp"))),
    ],
)
def test_adapters_beside_their_weights_equal_merged_ones(name, asked):
    model = MODELS[name]
    params = disturbed(model, asked)
    beside = logits(model, "float32", params, tokens())
    merged = jax.tree.map(whole, adapter.merged(params), is_leaf=is_stack)
    merged = logits(model, "float32", merged, tokens())
    base = logits(model, "float32", adapter_plan.without_adapters(params), tokens())
    np.testing.assert_allclose(beside, merged, rtol=1e-5, atol=1e-5)
    assert np.abs(beside - base).max() > 0.1
