"""Moments in 8 bits: what a code keeps of a number, and that means of many steps come out right."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.training import optim
from jaxsft.training.optimizers import adamw_8bit, codes
from jaxsft.training.optimizers.sides import Sides
from tests.training.optimizers.updates import optim_config, trained_leaf

SIDES = Sides((0,), (1,))
CODES = [adamw_8bit._MEAN, adamw_8bit._SQUARES]


def made(code, shape=(64, 96)):
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-6, 0, shape)
    signs = np.where(code.signed, rng.choice([-1, 1], shape), 1)
    return (sizes * signs).astype(np.float32)


def gaps(code, numbers):
    """Between the two codes beside each number."""
    size = np.abs(numbers)
    scale = np.minimum(size.max(1, keepdims=True), size.max(0, keepdims=True))
    low = np.minimum(np.floor(code.levels * (size / scale) ** (1 / code.power)), code.levels - 1)
    return scale * ((low + 1) ** code.power - low**code.power) / code.levels**code.power


@pytest.mark.parametrize("code", CODES, ids=str)
def test_a_code_is_one_of_the_two_beside_its_number(code):
    numbers = made(code)
    found = codes.decoded(codes.encoded(jnp.asarray(numbers), SIDES, code, jnp.int32(3)), code)
    assert np.all(np.abs(found - numbers) <= 1.01 * gaps(code, numbers))
    largest = np.abs(numbers).argmax(1)
    rows = np.arange(len(numbers))
    np.testing.assert_allclose(found[rows, largest], numbers[rows, largest], rtol=0.02)


@pytest.mark.parametrize("code", CODES, ids=str)
def test_the_mean_over_many_steps_is_the_number(code):
    """To the nearest code, it would be a fourth of a gap away, typically."""
    numbers = made(code, (8, 16))
    turns = [
        codes.decoded(codes.encoded(jnp.asarray(numbers), SIDES, code, jnp.int32(step)), code)
        for step in range(400)
    ]
    apart = (np.mean(turns, axis=0) - numbers) / gaps(code, numbers)
    if not code.signed:
        apart = apart[numbers > gaps(code, numbers)]  # the least code is never rounded to 0
    assert np.abs(apart).max() < 0.13 and np.std(apart) < 0.03  # 5 and 1.2 deviations of a mean


def test_the_dice_are_even_and_others_at_each_step_and_place():
    rolls = np.stack([codes._dice((50, 40), jnp.int32(step), 0) for step in range(4)])
    assert rolls.min() >= 0 and rolls.max() < 1
    counts, _ = np.histogram(rolls, bins=10, range=(0, 1))
    assert np.all(np.abs(counts / rolls.size - 0.1) < 0.02)
    assert abs(np.corrcoef(rolls[0].ravel(), rolls[1].ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(rolls[0, :-1].ravel(), rolls[0, 1:].ravel())[0, 1]) < 0.1


def test_no_square_becomes_zero_and_zero_stays_zero():
    numbers = np.full((4, 8), 1e-20, np.float32)
    numbers[0], numbers[:, 0] = 1.0, 1.0  # the largest of every column and row
    numbers[1:, 3] = 0.0
    kept = codes.encoded(jnp.asarray(numbers), SIDES, adamw_8bit._SQUARES, jnp.int32(1))
    found = codes.decoded(kept, adamw_8bit._SQUARES)
    np.testing.assert_array_equal(np.asarray(found) == 0, numbers == 0)


def gradients(steps, shape=(32, 48)):
    """Rows and columns of very different sizes, and a direction that lasts."""
    rng = np.random.default_rng(1)
    sizes = 10.0 ** (rng.uniform(-3, 0, (shape[0], 1)) + rng.uniform(-2, 0, (1, shape[1])))
    lasting = rng.normal(size=shape)
    return (sizes * (lasting + rng.normal(size=(steps, *shape)))).astype(np.float32)


def test_its_steps_are_nearly_adamws():
    grads = gradients(200)
    start = np.random.default_rng(2).normal(size=grads.shape[1:]).astype(np.float32)

    def moved(name):
        optimizer = optim.make_optimizer(optim_config(name))
        return trained_leaf(optimizer, "gate_DF", start, grads)[0] - start

    whole, short = moved("adamw"), moved("adamw_8bit")
    assert np.linalg.norm(short - whole) < 0.06 * np.linalg.norm(whole)
    assert np.abs(short).max() < 1.1 * np.abs(whole).max()


def test_a_mean_of_squares_follows_slow_changes():
    """Each step moves it by a thousandth, much less than from a code to the next."""
    rng = np.random.default_rng(3)
    sizes = 10.0 ** rng.uniform(-3, 0, (32, 48))
    # Of one number in four they grow tenfold, once the mean has some history.
    grown = np.where(rng.random(sizes.shape) < 0.25, 10.0, 1.0)
    grads = [sizes.astype(np.float32)] * 300 + [(sizes * grown).astype(np.float32)] * 300
    optimizer = optim.make_optimizer(optim_config("adamw_8bit"))
    _, state = trained_leaf(optimizer, "gate_DF", np.zeros_like(grads[0]), grads)
    squares = codes.decoded(state["gate_DF"].squares, adamw_8bit._SQUARES)
    exact = np.zeros(sizes.shape)
    for grad in grads:
        exact = 0.999 * exact + 0.001 * grad.astype(np.float64) ** 2
    ratio = np.sqrt(np.asarray(squares) / exact)
    assert 0.98 < np.median(ratio) < 1.02
    assert np.std(ratio) < 0.2
