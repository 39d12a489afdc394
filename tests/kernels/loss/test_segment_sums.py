"""Sums of each segment: they are its own, they add up, and nothing is paid where none are asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.loss import chunks
from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.form import LossForm, Targets
from tests.kernels.loss.test_cross_entropy import inputs, plain

LENGTH, VOCAB, MOST = 256, 40, 5
WHOLE, APART = (LossForm(vocab_size=VOCAB, num_segments=most) for most in (None, MOST))


@pytest.fixture(scope="module")
def packed():
    """Rows of 2 to 5 segments with padding behind them, in more chunks than one."""
    hidden, head, targets, weights = inputs(8, LENGTH, 16, VOCAB, VOCAB, 0.5)
    rng, segments = np.random.default_rng(2), np.zeros((8, LENGTH), np.int32)
    for row, count in enumerate([5, 2, 3, 4, 5, 2, 2, 3]):
        ends = np.sort(rng.choice(np.arange(1, LENGTH - 20), count, replace=False))
        segments[row, : ends[-1]] = 1 + np.searchsorted(ends, np.arange(ends[-1]), side="right")
    weights = np.where(segments > 0, weights, 0)
    weights[0, segments[0] == 3] = 0  # a segment without a target
    arrays = map(jnp.asarray, (targets, weights, segments))
    targets, weights, segments = arrays
    return hidden, head, Targets(targets, weights, None, segments)


def run(packed, form):
    return jax.jit(cross_entropy, static_argnums=3)(*packed, form)


def assert_each_is_its_own(by_segment, packed):
    hidden, head, targets = packed
    assert by_segment.nll_BM.shape == by_segment.weight_BM.shape == (8, MOST)
    for segment in range(1, MOST + 1):
        kept = jnp.where(targets.segments_BT == segment, targets.weights_BT, 0)
        for row in range(8):
            one = slice(row, row + 1)
            own = plain(hidden[one], head, targets.targets_BT[one], kept[one], VOCAB)
            for name, found in (("nll", by_segment.nll_BM), ("weight", by_segment.weight_BM)):
                np.testing.assert_allclose(found[row, segment - 1], own[name], 1e-5, 1e-5)


@pytest.mark.parametrize("chunk", [128, 2048])
def test_each_segment_has_its_own_sums_and_they_add_up(packed, monkeypatch, chunk):
    monkeypatch.setattr(chunks, "chunk_tokens", lambda num_tokens, most: chunk)
    sums, by_segment = jax.jit(lambda *arrays: cross_entropy(*arrays, APART))(*packed)
    assert_each_is_its_own(by_segment, packed)
    np.testing.assert_allclose(jnp.sum(by_segment.nll_BM), sums.nll, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(by_segment.weight_BM), sums.weight, rtol=1e-6)


@pytest.mark.parametrize("sizes", [config.Mesh(fsdp=8), config.Mesh(fsdp=2, context=2, tensor=2)])
def test_a_mesh_changes_nothing(packed, sizes):
    """Also where a segment lies on several devices."""
    with jax.set_mesh(mesh.make_mesh(sizes)):
        sums, by_segment = jax.jit(lambda *arrays: cross_entropy(*arrays, APART))(*packed)
    expected, alone = run(packed, APART)
    np.testing.assert_allclose(sums.nll, expected.nll, rtol=1e-6)
    np.testing.assert_allclose(by_segment.nll_BM, alone.nll_BM, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_segment.weight_BM, alone.weight_BM, rtol=1e-6)


def test_a_target_counts_in_its_segment_and_padding_in_none():
    arrays = ([0, 0, 0, 0], [0.0, 1.0, 2.0, 5.0], [1, 1, 2, 0])
    targets, weights, segments = (jnp.array([row]) for row in arrays)
    found = chunks._segment_sums(
        jnp.array([[9.0, 3.0, 4.0, 9.0]]), Targets(targets, weights, None, segments), 3
    )
    np.testing.assert_array_equal(found.nll_BM, [[3, 8, 0]])
    np.testing.assert_array_equal(found.weight_BM, [[1, 2, 0]])


def test_neighbours_in_the_row_change_nothing(packed):
    """Each row's second segment alone in a row, from position 0 on."""
    hidden, head, targets = packed
    second = targets.segments_BT == 2
    order = jnp.argsort(~second, axis=1, stable=True)
    moved = jax.tree.map(lambda rows: jnp.take_along_axis(rows, order, 1), targets)
    kept = jnp.take_along_axis(second, order, 1)
    alone = Targets(moved.targets_BT, moved.weights_BT * kept, None, kept.astype(jnp.int32))
    hidden = jnp.take_along_axis(hidden, order[..., None], 1)
    found, expected = run((hidden, head, alone), APART)[1], run(packed, APART)[1]
    np.testing.assert_allclose(found.nll_BM[:, 0], expected.nll_BM[:, 1], rtol=1e-6)
    assert not np.any(found.nll_BM[:, 1:])


def test_a_row_with_more_segments_is_not_a_number(packed):
    """Where a sum would be left out in silence."""
    few = LossForm(vocab_size=VOCAB, num_segments=4)
    sums, by_segment = run(packed, few)
    spoilt = np.max(packed[2].segments_BT, axis=1) > 4
    np.testing.assert_array_equal(np.isnan(by_segment.nll_BM).all(axis=1), spoilt)
    np.testing.assert_array_equal(np.isnan(by_segment.weight_BM).any(axis=1), spoilt)
    assert np.isfinite(sums.nll)


def test_asking_changes_neither_the_sums_nor_the_gradients(packed):
    hidden, head, targets = packed

    def gradients(form):
        def loss(hidden, head):
            sums, by_segment = cross_entropy(hidden, head, targets, form)
            return sums.nll, (sums, by_segment)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(hidden, head)

    (expected, (whole, none)), (actual, (sums, by_segment)) = gradients(WHOLE), gradients(APART)
    assert none is None and by_segment is not None
    jax.tree.map(np.testing.assert_array_equal, (actual, sums), (expected, whole))


def test_segments_that_are_not_asked_for_cost_nothing(packed):
    """The program is that of a batch that has none, and its loop carries no losses of tokens."""
    hidden, head, targets = packed
    without = Targets(targets.targets_BT, targets.weights_BT)

    def program(targets, form):
        def loss(hidden):
            sums, by_segment = cross_entropy(hidden, head, targets, form)
            return sums.nll, by_segment  # that nobody reads, jax may leave out by itself

        return jax.jit(jax.grad(loss, has_aux=True)).lower(hidden).as_text()

    whole, apart = program(targets, WHOLE), program(targets, APART)
    assert program(without, WHOLE) == whole
    by_token = f"tensor<{targets.weights_BT.size}xf32>"
    loops = [
        next(line for line in text.splitlines() if "while(" in line) for text in (whole, apart)
    ]
    assert [loop.count(by_token) for loop in loops] == [0, 1]


def test_a_function_of_the_segments_has_its_gradient_through_the_weights(packed):
    """As cross_entropy says; what a segment's sum alone would give is refused, not 0."""
    hidden, head, targets = packed

    def value(nll_BM):
        return jnp.sum(jax.nn.log_sigmoid(0.01 * nll_BM))

    def by_weights(hidden):
        slope_BM = jax.grad(value)(cross_entropy(hidden, head, targets, APART)[1].nll_BM)
        columns_BT = jnp.maximum(targets.segments_BT - 1, 0)
        weights_BT = targets.weights_BT * jnp.take_along_axis(slope_BM, columns_BT, 1)
        scaled = Targets(targets.targets_BT, jax.lax.stop_gradient(weights_BT))
        return jax.grad(lambda h: cross_entropy(h, head, scaled, WHOLE)[0].nll)(hidden)

    def by_definition(hidden):
        logits = jnp.einsum("BTD,DV->BTV", hidden, head)
        label = jnp.take_along_axis(jax.nn.log_softmax(logits), targets.targets_BT[..., None], 2)
        which = jax.nn.one_hot(targets.segments_BT - 1, MOST)
        nll_BM = jnp.einsum("BT,BTM->BM", -targets.weights_BT * label[..., 0], which)
        return value(nll_BM)

    expected = jax.jit(jax.grad(by_definition))(hidden)
    np.testing.assert_allclose(jax.jit(by_weights)(hidden), expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(AssertionError, match="nll of the whole alone"):
        jax.grad(lambda h: value(cross_entropy(h, head, targets, APART)[1].nll_BM))(hidden)
