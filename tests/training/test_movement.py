"""Adapters that do not move are named; a run in which none does is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.errors import ConfigError
from jaxsft.training.movement import Movement


def params(a=1.0, b=0.0):
    """An adapter of two layers, and one of none."""
    factors = {"a": jnp.full((2, 3), a), "b": jnp.full((2, 4), b)}
    return {
        "layers": {"mlp": {"up_DF": jnp.ones((2, 5)), "up_DF_lora": factors}},
        "head_DV_lora": {"a": jnp.full((3, 2), a), "b": jnp.full((2, 6), b)},
    }


def with_b(tree, layer):
    factors = tree["layers"]["mlp"]["up_DF_lora"]
    moved = factors | {"b": factors["b"].at[layer].add(1e-6)}
    return tree | {"layers": {"mlp": {"up_DF_lora": moved}}}


def test_b_moves_first_then_a():
    watched = Movement(params(), step=0)
    assert watched.after(1, 1, params()) == []  # a skipped step
    assert watched.after(1, 0, params(b=1e-6)) == []
    assert watched.after(2, 0, params(a=1.1, b=1e-6)) == []
    assert watched.after(3, 0, params()) == []  # nobody looks any more


def test_what_begins_apart_from_zero_moves_at_once():
    watched = Movement(params(b=1.0), step=0)  # as with init=pissa
    (line,) = watched.after(1, 0, params(b=1.1))
    assert "3 of 6 factors by update 1: head_DV_lora.a; layers.mlp.up_DF_lora.a of" in line


def test_layers_without_an_adapter_stay():
    begun = params(b=1.0)
    up = begun["layers"]["mlp"]["up_DF_lora"]
    zeros = {"a": up["a"].at[0].set(0.0), "b": up["b"].at[0].set(0.0)}
    begun["layers"]["mlp"]["up_DF_lora"] = zeros
    now = params(a=1.1, b=1.1)
    now["layers"]["mlp"]["up_DF_lora"] = {n: 1.1 * leaf for n, leaf in zeros.items()}
    watched = Movement(begun, step=0)
    assert watched.after(1, 0, now) == [] and watched.after(2, 0, now) == []


def test_what_stayed_is_named_with_its_layer():
    watched = Movement(params(), step=0)
    (line,) = watched.after(1, 0, with_b(params(), layer=1))
    assert "2 of 3 factors by update 1" in line
    assert "head_DV_lora.b; layers.mlp.up_DF_lora.b of layer 0;" in line
    (line,) = watched.after(2, 0, params(b=1.0))
    assert "3 of 6 factors by update 2: head_DV_lora.a; layers.mlp.up_DF_lora.a of" in line


def test_a_run_that_moves_nothing_is_refused():
    with pytest.raises(
        ConfigError, match="nothing moved in update 1, neither head_DV_lora.b nor any other"
    ):
        Movement(params(), step=0).after(1, 0, params())


def test_a_run_that_goes_on_and_one_without_adapters_are_not_watched():
    assert Movement(params(), step=7).after(1, 0, params()) == []
    assert Movement({"head_DV": np.ones((3, 2))}, step=0).after(1, 0, {}) == []
