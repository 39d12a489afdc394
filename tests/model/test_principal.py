"""Factors of the largest singular values: the nearest matrix of their rank, the same everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.model import principal

RNG = np.random.default_rng(0)
SCALES_L = np.array([2.0, 0.5], np.float32)


def nearest(weight_IO, rank):
    u, s, vt = np.linalg.svd(np.float64(weight_IO), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank], s[:rank]


@pytest.mark.parametrize(
    ("stack", "inputs", "outputs"),
    [((), (12,), (20,)), ((2,), (20,), (3, 4)), ((2, 3), (4, 5), (11,))],
)
def test_they_make_the_nearest_matrix_of_their_rank(stack, inputs, outputs):
    weight_x = RNG.normal(size=(*stack, *inputs, *outputs)).astype(np.float32)
    scale_x = SCALES_L if stack else SCALES_L[0]
    a, b = principal.factors(jnp.asarray(weight_x), scale_x, 3, len(stack), len(inputs))
    assert a.shape == (*stack, *inputs, 3) and b.shape == (*stack, 3, *outputs)
    num_in, num_out = int(np.prod(inputs)), int(np.prod(outputs))
    for at in np.ndindex(*stack):
        scale = scale_x[at[0]] if stack else scale_x
        one_a, one_b = np.reshape(a[at], (num_in, 3)), np.reshape(b[at], (3, num_out))
        expected, s = nearest(weight_x[at].reshape(num_in, num_out), 3)
        np.testing.assert_allclose(scale * one_a @ one_b, expected, atol=1e-5)
        # Each factor has half of them, as the gradients of both then are of one size.
        np.testing.assert_allclose(one_a.T @ one_a, np.diag(s / scale), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(one_b @ one_b.T, np.diag(s / scale), rtol=1e-5, atol=1e-5)


def test_they_are_those_of_peft():
    import peft
    import torch

    weight_IO = RNG.normal(size=(10, 16)).astype(np.float32)
    model = torch.nn.ModuleDict({"q": torch.nn.Linear(10, 16, bias=False)})
    with torch.no_grad():
        model["q"].weight.copy_(torch.tensor(weight_IO.T))
    asked = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q"], init_lora_weights="pissa")
    theirs = peft.get_peft_model(model, asked).base_model.model.q
    ours = principal.factors(jnp.asarray(weight_IO), jnp.float32(2.0), 4, 0, 1)
    for mine, their in zip(ours, (theirs.lora_A, theirs.lora_B), strict=True):
        their = their["default"].weight.detach().numpy().T
        axis = 1 if their.shape[1] == 4 else 0  # vectors may be turned round, both at once
        products = np.sum(np.asarray(mine) * their, axis=1 - axis)
        np.testing.assert_allclose(np.abs(products), np.sum(their**2, axis=1 - axis), rtol=1e-4)


def test_of_less_than_the_rank_the_rest_is_zero():
    a, b = principal.factors(jnp.zeros((4, 6)), jnp.float32(1.0), 2, 0, 1)
    assert not np.any(a) and not np.any(b)


def test_every_mesh_has_the_same_bits():
    weight_LIO = RNG.normal(size=(2, 32, 64)).astype(np.float32)
    alone = principal.factors(jnp.asarray(weight_LIO), jnp.asarray(SCALES_L), 4, 1, 1)
    over = mesh.make_mesh(config.Mesh(fsdp=4, tensor=2))
    placed = mesh.sharding(over, "layer", "embed", "mlp")
    parts = (mesh.sharding(over, "layer", "embed", "rank"), mesh.sharding(over, "layer", "rank"))
    with jax.set_mesh(over):
        made = jax.jit(
            lambda w: principal.factors(w, jnp.asarray(SCALES_L), 4, 1, 1),
            in_shardings=placed,
            out_shardings=parts,
        )(weight_LIO)
    for mine, expected in zip(made, alone, strict=True):
        np.testing.assert_array_equal(mine, expected)
