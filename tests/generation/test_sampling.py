"""Tokens by chance: their distribution is transformers', and depends on nothing but the seed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxsft.errors import ConfigError
from jaxsft.generation import sampling
from jaxsft.generation.sampling import Sampling

VOCAB, DRAWS = 40, 20_000
SEEN = [3, 5, 5, 17, 39]
LIKELIEST = Sampling()
KINDS = {
    "plain": Sampling(temperature=1.0),
    "hot": Sampling(temperature=1.7),
    "top k": Sampling(temperature=0.8, top_k=7),
    "top p": Sampling(temperature=1.2, top_p=0.7),
    "min p": Sampling(temperature=1.2, min_p=0.1),
    "penalty": Sampling(temperature=1.0, repetition_penalty=1.8),
    "all": Sampling(temperature=1.3, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=0.6),
    "one left": Sampling(temperature=1.0, top_p=1e-6),
    "no threshold": Sampling(temperature=1.0, top_k=VOCAB + 9, top_p=1.0, min_p=0.0),
}


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(0, 2, VOCAB).astype(np.float32)


@pytest.fixture(scope="module")
def seen():
    return np.isin(np.arange(VOCAB), SEEN)


def of_transformers(logits, s: Sampling) -> np.ndarray:
    """The probabilities that transformers' processors leave, in the order of its `generate`."""
    import torch
    from transformers import generation

    ids, scores = torch.tensor([SEEN]), torch.tensor(logits)[None]
    processors = [generation.RepetitionPenaltyLogitsProcessor(s.repetition_penalty)]
    processors.append(generation.TemperatureLogitsWarper(s.temperature))
    if s.top_k is not None:
        processors.append(generation.TopKLogitsWarper(s.top_k))
    if s.top_p is not None and s.top_p < 1:
        processors.append(generation.TopPLogitsWarper(s.top_p))
    if s.min_p is not None:
        processors.append(generation.MinPLogitsWarper(s.min_p))
    for processor in processors:
        scores = processor(ids, scores)
    return torch.softmax(scores.double(), dim=-1)[0].numpy()


def draws(logits, seen, s: Sampling, count=DRAWS) -> np.ndarray:
    """Of `count` rows that are alike but for their numbers."""
    logits_BV, seen_BV = (jnp.broadcast_to(one, (count, VOCAB)) for one in (logits, seen))
    numbers_B = jnp.arange(count, dtype=jnp.uint32)
    choice = sampling.choice_of(s, VOCAB)
    return np.asarray(jax.jit(sampling.next_tokens)(choice, logits_BV, seen_BV, numbers_B, 3))


@pytest.mark.parametrize("name", KINDS)
def test_probabilities_are_transformers(name, logits, seen):
    choice = sampling.choice_of(KINDS[name], VOCAB)
    shaped = sampling.shaped(choice, jnp.asarray(logits)[None], jnp.asarray(seen)[None])
    wanted = of_transformers(logits, KINDS[name])
    np.testing.assert_allclose(jax.nn.softmax(shaped)[0], wanted, atol=1e-6)
    assert ((np.asarray(shaped)[0] == -np.inf) == (wanted == 0)).all()


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_drawn_with_these_probabilities(name, logits, seen):
    wanted = of_transformers(logits, KINDS[name])
    counts = np.bincount(draws(logits, seen, KINDS[name]), minlength=VOCAB)
    assert counts[wanted == 0].sum() == 0
    rare = wanted * DRAWS < 5  # too few to be tested one by one
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(wanted[~rare], wanted[rare].sum()) * DRAWS
    kept = expected > 0
    if kept.sum() > 1:
        assert scipy.stats.chisquare(observed[kept], expected[kept]).pvalue > 1e-3


def test_without_a_temperature_the_likeliest_is_taken(logits, seen):
    assert set(draws(logits, seen, LIKELIEST, 9)) == {int(np.argmax(logits))}
    penalised = dataclasses.replace(LIKELIEST, repetition_penalty=9.0)
    seen_best = seen | (np.arange(VOCAB) == np.argmax(logits))
    assert draws(logits, seen_best, penalised, 1)[0] not in np.flatnonzero(seen_best)


def test_what_a_row_gets_depends_on_seed_number_and_place_alone(logits, seen):
    plain, other_seed = KINDS["plain"], dataclasses.replace(KINDS["plain"], seed=1)
    many = draws(logits, seen, plain, 64)
    np.testing.assert_array_equal(draws(logits, seen, plain, 16), many[:16])
    assert (draws(logits, seen, other_seed, 64) != many).any()
    choice, rows = sampling.choice_of(plain, VOCAB), jnp.broadcast_to(logits, (64, VOCAB))
    numbers = jnp.arange(64, dtype=jnp.uint32)
    assert (sampling.next_tokens(choice, rows, None, numbers, jnp.int32(4)) != many).any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: must be 0 or more"),
        ({"temperature": float("nan")}, "temperature=nan: must be 0 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p=0.0: must be in \(0, 1\]"),
        ({"top_k": 5}, "top_k=5: must be given with a temperature: it has no effect"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be at least 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: must be more than 0"),
    ],
)
def test_what_means_nothing_is_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Sampling(**wrong)
