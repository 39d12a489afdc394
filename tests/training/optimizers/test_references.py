"""Each optimizer beside another implementation of it, or its paper's lines in numpy."""

import numpy as np
import pytest

from jaxsft.training import optim
from tests.training.optimizers.updates import RATE, optim_config, trained_leaf

STEPS = 50
DECAY = 0.1  # of optim_config


def made(shape, seed=0):
    """A parameter, and gradients whose rows are of very different sizes."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-3, 0, (*shape[:-1], 1))
    grads = (sizes * (rng.normal(size=(STEPS, *shape)) + 0.3)).astype(np.float32)
    return 0.3 * rng.normal(size=shape).astype(np.float32), grads


def ours(name, leaf, start, grads, **fields):
    optimizer = optim.make_optimizer(optim_config(name, **fields))
    return trained_leaf(optimizer, leaf, start, grads)[0]


def torch_leaf(make, start, grads, dtype="float64"):
    """One parameter after torch's optimizer has had these gradients.

    In float64: in float32, torch rounds 1 - lr * weight_decay, which adds up.
    """
    torch = pytest.importorskip("torch")
    param = torch.nn.Parameter(torch.tensor(start.astype(dtype)))
    optimizer = make([param])
    for grad in grads:
        param.grad = torch.tensor(grad.astype(dtype))
        optimizer.step()
    return param.detach().numpy()


@pytest.mark.parametrize(("leaf", "shape"), [("gate_DF", (48, 40)), ("norm.scale_D", (48,))])
def test_adamw_is_torchs(leaf, shape):
    torch = pytest.importorskip("torch")
    start, grads = made(shape)
    decay = DECAY if leaf == "gate_DF" else 0.0  # norms have none
    expected = torch_leaf(
        lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=decay), start, grads
    )
    optimizer = optim.make_optimizer(optim_config())
    found, _ = trained_leaf(optimizer, leaf, start, grads, rate=1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_is_torchs_but_for_the_decay(momentum):
    """Which torch adds to the gradient, and so to the momentum; a norm has none."""
    torch = pytest.importorskip("torch")
    start, grads = made((48,))
    expected = torch_leaf(
        lambda params: torch.optim.SGD(params, lr=RATE, momentum=momentum), start, grads
    )
    found = ours("sgd", "norm.scale_D", start, grads, sgd_momentum=momentum)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_sgds_decay_is_of_the_weight():
    start, grads = made((4, 4))
    found = ours("sgd", "gate_DF", start, 0 * grads)
    np.testing.assert_allclose(found, start * (1 - RATE * DECAY) ** STEPS, rtol=1e-5)


def test_lion_is_its_papers():
    """arXiv:2302.06675, algorithm 2."""
    start, grads = made((24, 16))
    weight, mean = start.astype(np.float64), np.zeros_like(start, np.float64)
    for grad in grads.astype(np.float64):
        update = np.sign(0.9 * mean + 0.1 * grad)
        weight = weight - RATE * (update + DECAY * weight)
        mean = 0.99 * mean + 0.01 * grad
    np.testing.assert_allclose(ours("lion", "gate_DF", start, grads), weight, rtol=0, atol=1e-5)


# Stacks of two layers; theirs are matrices from the second side to the first.
MATRICES = [
    ("layers.mlp.gate_DF", (2, 24, 40), lambda w: w.T),
    ("layers.mlp.down_FD", (2, 40, 24), lambda w: w.T),
    ("layers.attention.q_DNH", (2, 24, 3, 8), lambda w: w.reshape(24, 24).T),
    ("layers.attention.o_NHD", (2, 3, 8, 40), lambda w: w.reshape(24, 40).T),
]


def in_layers(make, theirs, start, grads):
    """Each layer by itself in torch, seen as torch has it; stacked as torch has them."""
    return np.stack(
        [
            torch_leaf(make, theirs(start[layer]).copy(), [theirs(g[layer]).copy() for g in grads])
            for layer in range(len(start))
        ]
    )


@pytest.mark.parametrize(("leaf", "shape", "theirs"), MATRICES)
def test_muon_is_torchs_in_float32(leaf, shape, theirs, monkeypatch):
    """Torch orthogonalises in bfloat16, which would hide what differs by less than a hundredth."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    start, grads = made(shape)
    few = grads[:10]
    expected = in_layers(
        lambda params: torch.optim.Muon(
            params, lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"
        ),
        *(theirs, start, few),
    )
    found = ours("muon", leaf, start, few)
    moved = np.abs(found - start).max()
    seen = np.stack([theirs(one) for one in found])
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-3 * moved)


@pytest.mark.parametrize("leaf", ["embedding_VD", "head_DV", "final_norm.scale_D"])
def test_muon_leaves_all_but_the_matrices_of_layers_to_adamw(leaf):
    start, grads = made((16, 8) if leaf != "final_norm.scale_D" else (8,))
    np.testing.assert_array_equal(
        ours("muon", leaf, start, grads), ours("adamw", leaf, start, grads)
    )


VECTORS = [("layers.mlp_norm.scale_D", (2, 24), lambda w: w)]


@pytest.mark.parametrize(("leaf", "shape", "theirs"), MATRICES + VECTORS)
def test_adafactor_is_transformers(leaf, shape, theirs):
    optimization = pytest.importorskip("transformers.optimization")
    start, grads = made(shape)
    decay = DECAY if len(shape) > 2 else 0.0
    expected = in_layers(
        lambda params: optimization.Adafactor(
            params,
            lr=RATE,
            weight_decay=decay,
            scale_parameter=False,
            relative_step=False,
            warmup_init=False,
        ),
        *(theirs, start, grads),
    )
    found = np.stack([theirs(one) for one in ours("adafactor", leaf, start, grads)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
