"""Batches of a run: every row once an epoch, on any number of hosts, from any step on."""

import jax
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.data.pack import packing
from jaxsft.data.pack.balance import RowCost
from jaxsft.data.pack.reweight import Reweighting
from jaxsft.devices import mesh
from jaxsft.training import over_mesh
from jaxsft.training.loader import Batches, local_rows

LENGTH = 32
COST = RowCost(slot=1.0, supervised=9.0, pair={None: 0.5, 6: 0.1})


class InMemory:
    """Stands where a Cache stands: made-up conversations without files."""

    def __init__(self, lengths):
        self._made = tiny.conversations(lengths)
        self.lengths = np.array([len(ids) for ids, _ in self._made])
        self.supervised = np.array([np.count_nonzero(weights) for _, weights in self._made])
        self.sources = np.arange(len(lengths)) * 3 // len(lengths)  # three, of equal size

    def examples(self, indices):
        return [self._made[i] for i in indices]


@pytest.fixture(scope="module")
def cache():
    return InMemory(np.random.default_rng(3).integers(2, LENGTH + 1, 60).tolist())


def batches(cache, batch_size=4, sizes=tiny.ONE_DEVICE, seed=0, sources=None, **others):
    devices = jax.devices()[:1] if sizes == tiny.ONE_DEVICE else jax.devices()
    return Batches(
        cache,
        sources=sources,
        sequence_length=LENGTH,
        batch_size=batch_size,
        seed=seed,
        sharding=over_mesh.batch_sharding(mesh.make_mesh(sizes, devices)),
        cost=COST,
        **others,
    )


def texts(batch):
    """The conversations of a batch, as tuples of ids."""
    found = []
    for tokens, segments in zip(
        np.asarray(batch.tokens_BT), np.asarray(batch.segments_BT), strict=True
    ):
        found += [tuple(tokens[segments == s].tolist()) for s in range(1, segments.max() + 1)]
    return found


def test_every_conversation_once_an_epoch_partial_batch_included(cache):
    source = batches(cache)
    assert source.epochs.num_rows % 4, "the law must meet a partial batch"
    everything = sorted(tuple(ids.tolist()) for ids, _ in cache.examples(range(60)))
    for epoch in range(2):
        first = epoch * source.epochs.steps_in(1)
        trained = []
        for batch, counts in source.stream(first, first + source.epochs.steps_in(1)):
            here = texts(batch)
            assert counts.examples == len(here)
            assert counts.tokens == sum(map(len, here)) == int((batch.segments_BT > 0).sum())
            seen = [query + 1 for text in here for query in range(len(text))]
            windowed = sum(min(6, keys) for keys in seen)
            assert counts.attention_pairs == {None: sum(seen), 6: windowed}
            assert counts.slots == 4 * LENGTH
            trained += here
        assert sorted(trained) == everything


def test_a_stream_from_the_middle_is_the_rest_of_the_whole(cache):
    whole = list(batches(cache).stream(0, 12))
    rest = list(batches(cache).stream(7, 12))
    assert len(rest) == 5
    for (left, _), (right, _) in zip(whole[7:], rest, strict=True):
        tiny.assert_trees_equal(left, right)


def test_epochs_and_seeds_differ(cache):
    source = batches(cache)
    epoch_0 = [texts(source._on_devices(s)[0]) for s in range(2)]
    epoch_1 = [texts(source._on_devices(s + source.epochs.steps_in(1))[0]) for s in range(2)]
    other_seed = batches(cache, seed=1)
    seed_1 = [texts(other_seed._on_devices(s)[0]) for s in range(2)]
    assert epoch_0 != epoch_1 and epoch_0 != seed_1


@pytest.mark.parametrize("sizes", [config.Mesh(fsdp=8), config.Mesh(fsdp=4, tensor=2)], ids=str)
def test_a_mesh_sees_the_same_rows_maybe_in_another_order(cache, sizes):
    sources = (config.Source(path="a"),)
    own = Reweighting.of(config.Loss(reduction="example_mean"), sources, cache.sources)
    one, many = (
        next(batches(cache, 8, over, reweighting=own, numbered=True).stream(1, 2))[0]
        for over in (tiny.ONE_DEVICE, sizes)
    )
    assert many.tokens_BT.sharding.num_devices == 8
    tiny.assert_trees_equal(*(in_one_order(jax.device_get(batch)) for batch in (many, one)))


def test_tokens_know_their_examples_and_what_those_weigh(cache):
    sources = tuple(config.Source(path=name) for name in "abc")
    own = Reweighting.of(config.Loss(source_weights={"b": 3.0}), sources, cache.sources)
    batch = next(batches(cache, reweighting=own, numbered=True).stream(0, 1))[0]
    batch = jax.device_get(batch)
    real = batch.segments_BT > 0
    for number in np.unique(batch.examples_BT[real]):
        here = real & (batch.examples_BT == number)
        ids, weights = cache.examples([number])[0]
        assert batch.tokens_BT[here].tolist() == ids.tolist()
        factor = 3.0 if cache.sources[number] == 1 else 1.0
        wanted = [*(factor * weights[1:]), 0]
        assert batch.objective_weights_BT[here].tolist() == wanted


def in_one_order(batch):
    order = np.lexsort(batch.tokens_BT.T)
    return jax.tree.map(lambda rows_BT: rows_BT[order], batch)


def test_the_rows_of_a_batch_are_spread_by_what_they_cost(cache):
    spread = batches(cache, 16, config.Mesh(fsdp=4, tensor=2))
    for batch, counts in spread.stream(0, 2):
        segments = [np.bincount(row)[1:] for row in np.asarray(batch.segments_BT)]
        supervised = np.count_nonzero(np.asarray(batch.weights_BT), axis=1)
        costs_B = COST.of_rows(LENGTH, segments, supervised.tolist())
        assert counts.cost == pytest.approx(costs_B.sum() / 4)
        assert counts.busiest_cost == pytest.approx(costs_B.reshape(4, 4).sum(axis=1).max())
        assert counts.busiest_cost < 1.1 * counts.cost


def test_the_sources_of_a_mixture_are_known_by_token(cache):
    mixed = tuple(
        config.Source(path=name, weight=w) for name, w in zip("abc", (1, 2, 0.5), strict=True)
    )
    source = batches(cache, sources=mixed)
    everything = {
        tuple(ids.tolist()): n for (ids, _), n in zip(cache._made, cache.sources, strict=True)
    }
    seen = np.zeros(3, int)
    for batch, _ in source.stream(0, source.epochs.steps_in(1)):
        for row, segments, labels in zip(
            *map(np.asarray, (batch.tokens_BT, batch.segments_BT, batch.sources_BT)), strict=True
        ):
            for segment in range(1, segments.max() + 1):
                of_token = labels[segments == segment]
                number = everything[tuple(row[segments == segment].tolist())]
                assert (of_token == number).all()
                seen[number] += 1
    assert seen.tolist() == [20, 40, 10]


def test_no_target_crosses_a_segment(cache):
    for batch, _ in batches(cache).stream(0, 5):
        tokens, targets = np.asarray(batch.tokens_BT), np.asarray(batch.targets_BT)
        segments, weights = np.asarray(batch.segments_BT), np.asarray(batch.weights_BT)
        same = segments[:, 1:] == segments[:, :-1]
        assert not weights[:, -1].any() and not weights[:, :-1][~same].any()
        supervised = weights[:, :-1] > 0
        np.testing.assert_array_equal(targets[:, :-1][supervised], tokens[:, 1:][supervised])
        assert (np.asarray(batch.positions_BT)[:, 1:][~same & (segments[:, 1:] > 0)] == 0).all()


def test_rows_of_a_batch_and_padding(cache):
    source = batches(cache)
    _, last = source.epochs.rows(source.epochs.steps_in(1) - 1)
    assert (last == packing.PADDING_ROW).sum() == -source.epochs.num_rows % 4


def test_local_rows_cover_what_the_devices_hold():
    over = mesh.make_mesh(config.Mesh(fsdp=8))
    assert local_rows(over_mesh.batch_sharding(over), (16, LENGTH)).tolist() == list(range(16))
