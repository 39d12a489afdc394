"""The chunked cross-entropy against the plain one: sums and all gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.loss import chunks
from jaxsft.kernels.loss.chunks import chunk_tokens, most_chunk_tokens
from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.form import LossForm, Targets
from jaxsft.plan import cost, hlo


def plain(hidden_BTD, head_DV, targets_BT, weights_BT, vocab_size, soft_cap=None, tied=False):
    """Weighted negative log-likelihood with all logits in memory."""
    head_DV = head_DV.T if tied else head_DV
    logits_BTV = jnp.einsum("BTD,DV->BTV", hidden_BTD, head_DV)[..., :vocab_size]
    if soft_cap is not None:
        logits_BTV = soft_cap * jnp.tanh(logits_BTV / soft_cap)
    log_probability = jax.nn.log_softmax(logits_BTV.astype(jnp.float32), axis=-1)
    label = jnp.take_along_axis(log_probability, targets_BT[..., None], axis=-1)[..., 0]
    probability = jnp.exp(log_probability)
    return {
        "nll": -jnp.sum(weights_BT * label),
        "weight": jnp.sum(weights_BT),
        "correct": jnp.sum(weights_BT * (jnp.argmax(log_probability, -1) == targets_BT)),
        "entropy": -jnp.sum(weights_BT[..., None] * probability * log_probability),
        "supervised_tokens": jnp.sum(weights_BT > 0),
    }


def summed(hidden, head, targets, weights, vocab_size, *, sources=None, **static):
    form = LossForm(vocab_size=vocab_size, **static)
    return cross_entropy(hidden, head, Targets(targets, weights, sources), form)[0]


def inputs(batch, length, dim, columns, vocab_size, share, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(batch, length, dim)).astype(np.float32)
    head = rng.normal(size=(dim, columns)).astype(np.float32)
    targets = rng.integers(0, vocab_size, (batch, length)).astype(np.int32)
    weights = np.where(rng.random((batch, length)) < share, 0.5 + rng.random((batch, length)), 0)
    return tuple(map(jnp.asarray, (hidden, head, targets, weights.astype(np.float32))))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "columns", "vocab_size", "share", "soft_cap"),
    [
        (3, 101, 37, 37, 0.4, None),  # nothing divides anything
        (2, 256, 64, 50, 0.9, None),  # padded vocabulary columns, several chunks
        (2, 256, 64, 50, 1.0, 2.0),  # the last chunk is full
        (1, 7, 33, 33, 1.0, None),
        (2, 300, 40, 40, 0.0, None),  # no target at all
    ],
)
def test_equals_the_plain_form(batch, length, columns, vocab_size, share, soft_cap, tied):
    hidden, head, targets, weights = inputs(batch, length, 16, columns, vocab_size, share)
    head = head.T if tied else head
    assert_equals_the_plain_form(hidden, head, targets, weights, vocab_size, soft_cap, tied)


def assert_equals_the_plain_form(hidden, head, targets, weights, vocab_size, soft_cap, tied):
    arrays, form = (targets, weights, vocab_size), {"soft_cap": soft_cap, "tied": tied}

    def ours(hidden, head):
        sums = summed(hidden, head, *arrays, **form)
        return 3.0 * sums.nll, sums

    def theirs(hidden, head):
        sums = plain(hidden, head, *arrays, **form)
        return 3.0 * sums["nll"], sums

    (actual, sums), (wanted, expected) = (
        jax.jit(jax.grad(f, argnums=(0, 1), has_aux=True))(hidden, head) for f in (ours, theirs)
    )
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(sums, name), value, rtol=2e-6, atol=1e-5, err_msg=name)
    for got, want in zip(actual, wanted, strict=True):
        assert got.dtype == want.dtype and got.sharding.device_set == want.sharding.device_set
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        config.Mesh(fsdp=8),
        config.Mesh(data=2, fsdp=2, tensor=2),
        config.Mesh(fsdp=2, tensor=4),  # the last part of the vocabulary is all padding
        config.Mesh(data=1, fsdp=1, context=2, expert=2, tensor=2),
    ],
    ids=str,
)
def test_every_mesh_equals_the_plain_form(sizes, tied):
    """Devices have from no supervised token to all, so their loops differ in length."""
    hidden, head, targets, weights = inputs(8, 400, 16, 64, 40, 0.5)
    weights = weights.at[0].set(0).at[1].set(1.5).at[4:6].set(0)
    head = head.T if tied else head
    over = mesh.make_mesh(sizes)
    with jax.set_mesh(over):
        rows = mesh.sharding(over, "batch", "sequence")
        head_axes = ("vocab", "embed") if tied else ("embed", "vocab")
        arrays = (
            jax.device_put(hidden, mesh.sharding(over, "batch", "sequence", None)),
            jax.device_put(head, mesh.sharding(over, *head_axes)),
            jax.device_put(targets, rows),
        )
        for used in (weights, jnp.zeros_like(weights)):
            assert_equals_the_plain_form(*arrays, jax.device_put(used, rows), 40, 30.0, tied)


def test_only_gradients_that_are_wanted_are_computed():
    """Of the products of logits, hidden's gradient and the head's, one, two or all three."""
    hidden, head, targets, weights = inputs(1, 128, 16, 64, 64, 1.0)

    def loss(hidden, head):
        return summed(hidden, head, targets, weights, 64).nll

    frozen = jax.grad(lambda hidden: loss(hidden, jax.lax.stop_gradient(head)))
    runs = {1: loss, 2: jax.grad(loss), 3: jax.grad(loss, argnums=(0, 1))}
    for products, run in runs.items():
        text = jax.jit(run).lower(hidden, head).compile().as_text()
        flops = cost.matmul_flops(hlo.parse(text, 1.0))
        assert flops == products * 2 * 128 * 16 * 64
    np.testing.assert_array_equal(jax.jit(frozen)(hidden), jax.jit(runs[2])(hidden, head))


def test_a_gradient_in_bfloat16_is_added_up_in_float32():
    hidden, head, targets, weights = inputs(4, 512, 16, 64, 64, 1.0)
    assert hidden.shape[0] * hidden.shape[1] > 4 * chunk_tokens(2048, 1024)
    half = head.astype(jnp.bfloat16)

    def loss(head):
        return summed(hidden, head, targets, weights, 64).nll

    rounded, exact = jax.grad(loss)(half), jax.grad(loss)(half.astype(jnp.float32))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


def test_padded_columns_never_win():
    hidden, head, targets, weights = inputs(2, 64, 16, 136, 128, 0.5)  # a chunk has 128 rows too
    head = head.at[:, 128:].set(100.0 * jnp.abs(head[:, 128:]))
    shown = summed(hidden, head, targets, weights, 128)
    cut = summed(hidden, head[:, :128], targets, weights, 128)
    assert shown.nll == cut.nll and shown.correct == cut.correct and shown.entropy == cut.entropy


def test_targets_without_weight_are_never_looked_at():
    hidden, head, targets, weights = inputs(2, 200, 16, 40, 40, 0.3)
    changed = jnp.where(weights > 0, targets, (targets + 7) % 40)
    spoilt = jnp.where(weights[..., None] > 0, hidden, jnp.nan)
    expected = jax.value_and_grad(lambda h: summed(h, head, targets, weights, 40).nll)
    actual = jax.value_and_grad(lambda h: summed(h, head, changed, weights, 40).nll)
    value, grad = expected(hidden)
    spoilt_value, spoilt_grad = actual(spoilt)
    assert spoilt_value == value
    np.testing.assert_array_equal(spoilt_grad, grad)


@pytest.mark.parametrize("devices", [1, 8])
def test_sums_by_source_are_those_of_each_source_alone(devices):
    hidden, head, targets, weights = inputs(8, 40, 16, 40, 40, 0.5)
    sources = np.random.default_rng(1).integers(0, 3, (8, 40)).astype(np.int32)
    with jax.set_mesh(mesh.make_mesh(config.Mesh(fsdp=devices), jax.devices()[:devices])):

        @jax.jit
        def with_sources(hidden, sources):
            sums = summed(hidden, head, targets, weights, 40, sources=sources, num_sources=4)
            return sums.nll, sums

        grad = jax.grad(with_sources, has_aux=True)
        actual_grad, sums = grad(hidden, jnp.asarray(sources))
    for source in range(4):
        own = plain(hidden, head, targets, jnp.where(sources == source, weights, 0), 40)
        np.testing.assert_allclose(sums.source_nll_S[source], own["nll"], rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(sums.source_weight_S[source], own["weight"], rtol=1e-6)
    alone = summed(hidden, head, targets, weights, 40)
    assert alone.source_nll_S is None and alone.source_weight_S is None
    expected_grad = jax.grad(lambda h: summed(h, head, targets, weights, 40).nll)(hidden)
    np.testing.assert_allclose(actual_grad, expected_grad, rtol=1e-5, atol=1e-6)


def test_a_target_of_negative_weight_counts_but_not_as_supervised():
    """As a gradient through the weights of segments has them."""
    hidden, head, targets, weights = inputs(1, 40, 16, 40, 40, 0.5)
    against = summed(hidden, head, targets, -weights, 40)
    sums = summed(hidden, head, targets, weights, 40)
    assert against.nll == -sums.nll and sums.supervised_tokens > 0 == against.supervised_tokens


@pytest.mark.parametrize("asked", ["sources", "segments"])
def test_what_is_asked_for_must_be_given(asked):
    with pytest.raises(AssertionError, match=f"targets without {asked}"):
        summed(*inputs(1, 40, 16, 40, 40, 0.5), 40, **{f"num_{asked}": 3})


def test_a_chunk_is_an_eighth_of_the_tokens_within_limits():
    """In steps of 128, and no larger than it needs to be."""
    sizes = (1, *range(1023, 9000, 511), 1024, 1025, 4096, 4097, 8192, 16_384, 100_000)
    for tokens, platform in itertools.product(sizes, ("cpu", "gpu", "tpu")):
        most = most_chunk_tokens(platform)
        chunk = chunk_tokens(tokens, most)
        assert chunk % 128 == 0 and 8 * (chunk - 128) < tokens
        assert 8 * chunk >= tokens if chunk < most else chunk == most


@pytest.mark.parametrize("devices", [1, 2])
def test_only_chunks_with_a_supervised_target_are_computed(monkeypatch, devices):
    """Of each device, counted as they run; its tokens are 8 chunks."""
    hidden, head, targets, _ = inputs(2, 1024 * devices // 2, 8, 16, 16, 1.0)
    sound, ran = chunks._logits, []

    def counted(*arguments):
        jax.debug.callback(lambda: ran.append(1))
        return sound(*arguments)

    monkeypatch.setattr(chunks, "_logits", counted)
    with jax.set_mesh(mesh.make_mesh(config.Mesh(fsdp=devices), jax.devices()[:devices])):
        gradient = jax.jit(
            jax.grad(lambda hidden, weights: summed(hidden, head, targets, weights, 16).nll)
        )
        for supervised in (0, 1, 128, 129, 1024):
            weights = np.zeros(hidden.shape[0] * hidden.shape[1], np.float32)
            weights[:supervised] = 1  # on two devices all of them are the first one's
            ran.clear()
            gradient(hidden, jnp.asarray(weights.reshape(hidden.shape[:2])))
            jax.effects_barrier()
            assert len(ran) == -(-supervised // 128), supervised


def test_bfloat16_stays_within_bfloat16():
    hidden, head, targets, weights = inputs(2, 128, 32, 100, 100, 0.5)
    half = jnp.asarray(hidden, jnp.bfloat16)
    sums = summed(half, head, targets, weights, 100)
    expected = plain(hidden, head, targets, weights, 100)
    np.testing.assert_allclose(sums.nll, expected["nll"], rtol=1e-2)
    assert sums.nll.dtype == jnp.float32
