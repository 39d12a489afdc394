"""How a step may run its layers: on a single GPU each policy first without a loop."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft.errors import ConfigError
from jaxsft.model import gradient_slot
from jaxsft.model.remat import candidates
from jaxsft.training import mesh_program
from jaxsft.training.parameters import Way
from tests.training.test_mesh_fit import config


def mesh(platform, count=1):
    devices = np.array([types.SimpleNamespace(platform=platform)] * count)
    return types.SimpleNamespace(size=count, devices=devices)


def ways(platform="gpu", count=1, num_layers=3, **changed):
    asked = config()
    asked = dataclasses.replace(asked, model=dataclasses.replace(asked.model, **changed))
    decoder = dataclasses.replace(tiny.SETTINGS, num_layers=num_layers, layer_kinds=())
    return mesh_program.ways(asked, decoder, mesh(platform, count))


def test_on_a_single_gpu_each_policy_comes_unrolled_and_then_in_a_loop():
    assert ways() == [Way(policy, n) for policy in candidates("auto") for n in (3, 1)]
    assert ways(remat="full") == [Way("full", 3), Way("full", 1)]
    assert len({way.words for way in ways()}) == len(ways())


@pytest.mark.parametrize(
    ("where", "unrolled"),
    [
        ({"platform": "cpu"}, 1),
        ({"platform": "tpu"}, 1),
        ({"count": 2}, 1),
        ({"num_layers": 48}, 48),
        ({"num_layers": 49}, 1),
        ({"unroll_layers": 2}, 2),
    ],
)
def test_elsewhere_and_where_it_is_asked_for_there_is_one_way(where, unrolled):
    found = ways(remat="full", **where)
    assert found[0] == Way("full", unrolled)
    assert len(found) == (2 if unrolled == 48 else 1)


def test_inputs_of_layers_wait_on_the_host_of_a_tpu_alone():
    assert ways(platform="tpu", remat="offload") == [Way("offload", 1)]
    for platform in ("cpu", "gpu"):
        with pytest.raises(
            ConfigError, match=f"remat=offload: .* TPUs alone; set full on a {platform}"
        ):
            ways(platform=platform, remat="offload")


@pytest.mark.parametrize(("platform", "casts"), [("cuda", 0), ("tpu", 2)])
def test_a_slice_is_seen_as_integers_but_for_a_gpu(platform, casts):
    array = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    traced = jax.jit(gradient_slot._sliced_before_cast).trace(array)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.bitcast_convert") == casts
