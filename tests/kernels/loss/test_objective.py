"""What is minimised instead of nll, against autodiff of its definition and against torch's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.form import LossForm, Targets
from tests.kernels.loss.test_cross_entropy import inputs, plain

VOCAB, COLUMNS = 40, 64  # the columns behind the vocabulary are padding
KINDS = [
    {"label_smoothing": 0.2},
    {"z_loss": 0.03},
    {"kind": "dft"},
    {"label_smoothing": 0.1, "z_loss": 0.02, "reweighted": True},
    {"kind": "dft", "z_loss": 0.02},
    {"reweighted": True},
]


def form_of(**static):
    return LossForm(vocab_size=VOCAB, soft_cap=4.0, **static)


def weights_apart(weights):
    """Other weights of the objective, which rise from token to token."""
    return weights * (0.5 + jnp.arange(weights.size).reshape(weights.shape) / weights.size)


def defined(hidden, head, targets, weights, form):
    """The objective and its weight with all logits in memory, by the definitions in the papers."""
    head = head.T if form.tied else head
    logits = jnp.einsum("BTD,DV->BTV", hidden, head)[..., : form.vocab_size]
    logits = form.soft_cap * jnp.tanh(logits / form.soft_cap)
    log_probability = jax.nn.log_softmax(logits)
    label = jax.nn.one_hot(targets, form.vocab_size)
    wanted = (1 - form.label_smoothing) * label + form.label_smoothing / form.vocab_size
    losses = -jnp.sum(wanted * log_probability, axis=-1)
    if form.kind == "dft":
        losses *= jax.lax.stop_gradient(jnp.exp(jnp.sum(label * log_probability, axis=-1)))
    losses += form.z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    own = weights_apart(weights) if form.reweighted else weights
    return jnp.sum(own * losses), jnp.sum(own)


def gradients(hidden, head, targets, weights, form):
    def minimised(hidden, head):
        own = weights_apart(weights) if form.reweighted else None
        arrays = Targets(targets, weights, objective_weights_BT=own)
        sums = cross_entropy(hidden, head, arrays, form)[0]
        return 3.0 * sums.objective, sums

    return jax.jit(jax.grad(minimised, (0, 1), has_aux=True))(hidden, head)


def assert_is_as_defined(arrays, form, shared):
    """`arrays` over a mesh or not; what is compared with is computed without one."""
    actual, sums = gradients(*arrays, form)
    (value, weight), expected = (
        defined(*shared, form),
        jax.grad(lambda *two: 3.0 * defined(*two, *shared[2:], form)[0], (0, 1))(*shared[:2]),
    )
    np.testing.assert_allclose(sums.objective, value, rtol=1e-5)
    np.testing.assert_allclose(sums.objective_weight, weight, rtol=1e-6)
    head = shared[1].T if form.tied else shared[1]
    own = plain(shared[0], head, *shared[2:], VOCAB, form.soft_cap)
    for name in own:  # as they are without an objective
        np.testing.assert_allclose(getattr(sums, name), own[name], rtol=1e-5, atol=1e-5)
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_objective_and_gradients_are_those_of_the_definition(kind):
    arrays = inputs(2, 256, 16, COLUMNS, VOCAB, 0.6)
    assert_is_as_defined(arrays, form_of(**kind), arrays)


@pytest.mark.parametrize("kind", [KINDS[3], KINDS[4]], ids=str)
@pytest.mark.parametrize(
    ("sizes", "tied"),
    [
        (config.Mesh(fsdp=8), False),
        (config.Mesh(fsdp=2, tensor=4), True),  # the last part of the vocabulary is all padding
        (config.Mesh(data=1, fsdp=2, context=2, tensor=2), False),
    ],
    ids=str,
)
def test_a_mesh_changes_nothing(sizes, tied, kind):
    hidden, head, targets, weights = inputs(8, 64, 16, COLUMNS, VOCAB, 0.5)
    weights, head = weights.at[0].set(0), head.T if tied else head
    shared = hidden, head, targets, weights
    over = mesh.make_mesh(sizes)
    with jax.set_mesh(over):
        rows = mesh.sharding(over, "batch", "sequence")
        places = (
            mesh.sharding(over, "batch", "sequence", None),
            mesh.sharding(over, *(("vocab", "embed") if tied else ("embed", "vocab"))),
            *(rows, rows),
        )
        placed = tuple(map(jax.device_put, shared, places))
        actual, sums = jax.device_get(gradients(*placed, form_of(**kind, tied=tied)))
    expected, alone = gradients(*shared, form_of(**kind, tied=tied))
    for got, want in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6 * np.abs(want).max())
    for field in ("objective", "objective_weight", "nll"):
        np.testing.assert_allclose(getattr(sums, field), getattr(alone, field), rtol=1e-5)


def test_label_smoothing_is_that_of_torch():
    torch = pytest.importorskip("torch")
    hidden, head, targets, weights = inputs(2, 50, 16, VOCAB, VOCAB, 0.5)
    form = LossForm(vocab_size=VOCAB, label_smoothing=0.15)
    sums = cross_entropy(hidden, head, Targets(targets, weights), form)[0]
    logits = torch.tensor(np.asarray(jnp.einsum("BTD,DV->BTV", hidden, head)).reshape(-1, VOCAB))
    losses = torch.nn.functional.cross_entropy(
        logits, torch.tensor(np.asarray(targets).ravel()).long(), reduction="none",
        label_smoothing=0.15,
    )  # fmt: skip
    expected = float((losses * torch.tensor(np.asarray(weights).ravel())).sum())
    np.testing.assert_allclose(sums.objective, expected, rtol=1e-6)


def test_no_array_of_all_logits_is_held():
    """Of 2,048 targets, a vocabulary's row for each would be the largest array by far."""
    arrays = inputs(2, 1024, 8, 512, 512, 1.0)
    hidden, head, targets, weights = arrays
    form = LossForm(vocab_size=512, label_smoothing=0.1, z_loss=1e-3)

    def objective(hidden, head):
        return cross_entropy(hidden, head, Targets(targets, weights), form)[0].objective

    traced = jax.make_jaxpr(jax.grad(objective, (0, 1)))(hidden, head)
    text = str(traced)
    assert "f32[256,512]" in text and "f32[2048,512]" not in text and "[2,1024,512]" not in text


def test_only_what_is_minimised_has_a_gradient():
    hidden, head, targets, weights = inputs(1, 40, 16, VOCAB, VOCAB, 0.5)

    def sums(hidden, **static):
        form = LossForm(vocab_size=VOCAB, **static)
        return cross_entropy(hidden, head, Targets(targets, weights), form)[0]

    with pytest.raises(AssertionError, match="objective of the whole alone"):
        jax.grad(lambda hidden: sums(hidden, z_loss=0.1).nll)(hidden)
    assert sums(hidden).objective is None is sums(hidden).objective_weight
    with pytest.raises(AssertionError, match="targets without weights of the objective"):
        sums(hidden, reweighted=True)


def test_weights_of_an_objective_that_nobody_asks_for_cost_nothing():
    hidden, head, targets, weights = inputs(1, 128, 16, VOCAB, VOCAB, 0.5)
    form = LossForm(vocab_size=VOCAB)

    def program(arrays):
        def loss(hidden):
            return cross_entropy(hidden, head, arrays, form)[0].nll

        return jax.jit(jax.grad(loss)).lower(hidden).as_text()

    without = Targets(targets, weights)
    given = dataclasses.replace(without, objective_weights_BT=weights_apart(weights))
    assert program(given) == program(without)
