"""Dropout of adapters' inputs: PEFT's arithmetic, the same numbers however a step is computed."""

import dataclasses
import functools

import adapted
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxsft import config
from jaxsft.config import Lora, Loss
from jaxsft.data.pack import packing
from jaxsft.devices import mesh
from jaxsft.errors import ConfigError
from jaxsft.model import adapter_dropout, noise, parameter, state
from jaxsft.model.adapter import Adapted
from jaxsft.training import lora, mesh_program, over_mesh, step
from tests.training.test_lora import MIXTURE, asked
from tests.training.test_objectives import LENGTHS, rows_of

NUMBERED = Loss(neftune_alpha=1.0)  # whose rows name their examples
RATE = 0.25
KEYS = noise.token_keys(0, 3, jnp.arange(6).reshape(2, 3), jnp.zeros((2, 3), int))


def dropped(rate=RATE, layer=0, name="q", dim=4000):
    made = adapter_dropout.of_layer(KEYS, rate, layer)
    assert made is not None
    return np.asarray(made.below(name)(jnp.ones((2, 3, dim)), 1))


def test_a_share_is_dropped_and_the_rest_makes_up_for_it():
    found = dropped()
    assert set(np.unique(found)) == {0.0, np.float32(1 / (1 - RATE))}
    np.testing.assert_allclose((found == 0).mean(axis=-1), RATE, atol=0.03)
    np.testing.assert_allclose(found.mean(), 1.0, atol=0.01)
    for other in (dropped(layer=1), dropped(name="k")):
        np.testing.assert_allclose((other != found).mean(), 2 * RATE * (1 - RATE), atol=0.02)


def test_bfloat16_makes_up_for_it_on_average():
    drop = adapter_dropout.of_layer(KEYS, 0.05, 0)
    assert drop is not None
    x = jax.random.uniform(jax.random.key(0), (2, 3, 4000), jnp.bfloat16, 1.0, 2.0)
    ratios = np.float32(drop(x, 1)) / np.float32(x)
    np.testing.assert_allclose(ratios[ratios > 0].mean(), 1 / 0.95, rtol=5e-4)


def test_without_keys_or_a_rate_there_is_none():
    assert adapter_dropout.of_layer(None, 0.5, 0) is None
    assert adapter_dropout.of_layer(KEYS, 0.0, 0) is None


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapted_product_is_that_of_peft(dora):
    """The same numbers dropped: what peft's own layer computes in training."""
    import peft
    import torch

    rng = np.random.default_rng(0)
    x, weight, a, b = (
        rng.normal(size=size).astype(np.float32) for size in ((2, 3, 8), (8, 6), (8, 2), (2, 6))
    )
    made = adapter_dropout.of_layer(KEYS, RATE, 0)
    keep = np.asarray(made(jnp.ones((2, 3, 8)), 1))
    model = torch.nn.ModuleDict({"q": torch.nn.Linear(8, 6, bias=False)})
    fields = {"r": 2, "lora_alpha": 6, "lora_dropout": RATE, "target_modules": ["q"]}
    layer = peft.get_peft_model(model, peft.LoraConfig(use_dora=dora, **fields)).base_model.model.q
    magnitude = rng.uniform(1, 2, 6).astype(np.float32)
    with torch.no_grad():
        layer.base_layer.weight.copy_(torch.tensor(weight.T))
        layer.lora_A["default"].weight.copy_(torch.tensor(a.T))
        layer.lora_B["default"].weight.copy_(torch.tensor(b.T))
        if dora:
            layer.lora_magnitude_vector["default"].weight.copy_(torch.tensor(magnitude))
        layer.lora_dropout["default"].forward = lambda x: x * torch.tensor(keep)
        expected = layer.train()(torch.tensor(x)).numpy()
    held = Adapted(weight, a, b, jnp.float32(3.0), magnitude if dora else None, dropout=made)
    found = parameter.product("BTD,DF->BTF", jnp.asarray(x), nnx.Param(held))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def of_dropout(rate, sizes=tiny.ONE_DEVICE, microbatches=1, remat="none"):
    one = dataclasses.replace(
        asked(sizes),
        lora=Lora(rank=4, dropout=rate, dora=True),
        model=config.Model(source="x", dtype="float32", remat=remat, unroll_layers=1),
        train=config.Train(batch_size=16, microbatches=microbatches, steps=20),
    )
    devices = jax.devices()[:1] if sizes == tiny.ONE_DEVICE else jax.devices()
    return mesh_program.make_program(one, tiny.SETTINGS, 20, mesh.make_mesh(sizes, devices))


@functools.cache
def moved():
    """Parameters whose adapters do something."""
    params, made = adapted.with_adapters(tiny.SETTINGS, Lora(rank=4, dora=True), tiny.host_params())
    return jax.tree.map(np.asarray, adapted.disturbed(params, made.frozen))


def rows(alone=False):
    """All conversations, packed or each in a row of its own; numbered."""
    plan = packing.plan_rows(np.array(LENGTHS), 32, seed=0, epoch=0)
    if alone:
        plan = packing.plan_rows(np.array([32] * len(LENGTHS)), 32, seed=1, epoch=0)
    return rows_of(plan, NUMBERED)


def gradient(program, batch, at=3):
    """The step's sums and gradients, on the host."""

    def compute(params, batch):
        return step.gradient_sums(program.recipe, params, step.with_keys(program.recipe, batch, at))

    with jax.set_mesh(program.mesh):
        params = jax.device_put(moved(), program.placement.params)
        batch = jax.device_put(batch, over_mesh.batch_sharding(program.mesh))
        (sums, _), grads = jax.device_get(jax.jit(compute)(params, batch))
    return sums, grads


@pytest.fixture(scope="module")
def expected():
    return gradient(of_dropout(RATE), rows())


@pytest.mark.parametrize(
    ("changes", "alone"),
    [
        ({}, True),
        ({"microbatches": 4, "remat": "full"}, False),
        ({"sizes": config.Mesh(fsdp=4, tensor=2), "microbatches": 2}, False),
        ({"sizes": config.Mesh(fsdp=2, context=4)}, True),
    ],
)
def test_the_same_numbers_are_dropped_however_a_step_is_computed(expected, changes, alone):
    sums, grads = gradient(of_dropout(RATE, **changes), rows(alone))
    np.testing.assert_allclose(sums.nll, expected[0].nll, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), grads, expected[1]
    )


def test_each_step_drops_others_and_evaluation_none(expected):
    program, batch = of_dropout(RATE), rows()
    other = gradient(program, batch, at=4)[0]
    assert abs(other.nll - expected[0].nll) > 1e-4 * other.nll
    plain = dataclasses.replace(batch, examples_BT=None)
    with jax.set_mesh(program.mesh):
        evaluated = [made.eval_step(moved(), plain).nll for made in (program, of_dropout(0.0))]
    assert evaluated[0] == evaluated[1]
    assert abs(evaluated[0] - expected[0].nll) > 1e-3 * evaluated[0]


def test_without_dropout_a_step_draws_no_number():
    one = asked()
    for rate, draws in ((0.0, False), (RATE, True)):
        text = mesh_program.lower_train_step(of_dropout(rate), one).as_text()
        assert ("threefry" in text) == draws


@pytest.mark.parametrize(
    ("model", "targets", "message"),
    [
        (MIXTURE, None, r"dropout=0.1: adapters of experts .*targets=\['attention'\]"),
        (MIXTURE, ("router", "q_*"), "adapters of router are merged"),
        (tiny.SETTINGS, ("head", "mlp"), r"adapters of head .*targets=\['mlp'\]"),
    ],
)
def test_adapters_that_are_merged_are_refused(model, targets, message):
    _, shapes, axes = state.abstract(model, "float32", "none")
    with pytest.raises(ConfigError, match=message):
        lora.declare(Lora(dropout=0.1, targets=targets), model, shapes, axes)
