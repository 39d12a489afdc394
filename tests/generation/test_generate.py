"""Decoding with the cache against running the whole text again for each token."""

import inspect

import jax
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.errors import ConfigError
from jaxsft.generation import decoding, generate, memory
from jaxsft.generation.sampling import Sampling
from jaxsft.generation.shapes import MOST_ROWS, shape_of
from jaxsft.model import state

PROMPTS = [[5, 9, 12, 3], [7], [1, 2, 3, 4, 5, 6, 7]]
GREEDY = Sampling(max_new_tokens=8)
BY_CHANCE = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def graphdef():
    return state.abstract(tiny.SETTINGS, "float32", "none")[0]


@pytest.fixture(scope="module")
def params():
    """Sharp attention, so that a token at a wrong position gives another answer."""
    params = tiny.host_params()
    params["layers"]["attention"]["q_DNH"] *= 40
    params["layers"]["attention"]["v_DKH"] *= 5
    return params


def compiled():
    """How many programs there are of each part."""
    parts = (decoding.start, decoding.read, decoding.write, decoding.end)
    return [
        inspect.unwrap(part, stop=lambda one: hasattr(one, "_cache_size"))._cache_size()
        for part in parts
    ]


def answers(graphdef, params, prompts=PROMPTS, sampling=GREEDY, stop_ids=(), **options):
    found = generate.generate(graphdef, params, prompts, sampling, stop_ids=stop_ids, **options)
    return [answer.ids for answer in found]


@pytest.fixture(scope="module")
def free(graphdef, params):
    """What follows each prompt where nothing stops it."""
    return answers(graphdef, params)


def uncached(params, prompt, count):
    """The whole text again for each token; what stands behind it, token 0, is seen by none."""
    ids = list(prompt)
    for _ in range(count):
        row = np.zeros((1, 16), np.int32)
        row[0, : len(ids)] = ids
        ids.append(int(np.argmax(tiny.logits(params, row)[0, len(ids) - 1])))
    return ids[len(prompt) :]


def test_equals_decoding_without_a_cache(free, params):
    assert free == [uncached(params, prompt, 8) for prompt in PROMPTS]


def test_who_stops_waits_for_no_more_than_some_tokens(graphdef, params):
    asked = []

    def stopped():
        asked.append(1)
        return len(asked) == 2

    with pytest.raises(generate.Interrupted):
        answers(graphdef, params, tokens_between=2, stopped=stopped)
    assert len(asked) == 2  # 4 of 8 tokens
    assert answers(graphdef, params, stopped=lambda: False) == answers(graphdef, params)


def test_a_row_ends_with_its_stop_token(graphdef, params, free):
    stop = free[0][2]
    found = generate.generate(graphdef, params, PROMPTS, GREEDY, stop_ids=[stop])
    for answer, whole in zip(found, free, strict=True):
        length = whole.index(stop) + 1 if stop in whole else 8
        assert answer.ids == whole[:length] and answer.ended == (stop in whole)


def test_batches_of_any_size_and_looks_at_any_time_change_nothing(graphdef, params, free):
    assert answers(graphdef, params, most_rows=1) == free
    assert answers(graphdef, params, most_rows=2, tokens_between=3) == free


def test_who_watches_sees_all_that_is_written_and_may_end_it(graphdef, params, free):
    seen = {}

    def watch(index, ids):
        seen.setdefault(index, []).append(ids)
        return index == 1 and len(ids) >= 4

    found = generate.generate(
        graphdef, params, PROMPTS, GREEDY, stop_ids=[], watch=watch, tokens_between=2
    )
    assert [answer.ids for answer in found] == [free[0], free[1][:4], free[2]]
    assert [answer.ended for answer in found] == [False, True, False]
    assert seen[0] == [free[0][:count] for count in (2, 4, 6, 8)] and len(seen[1]) == 2


def test_long_prompts_are_read_in_parts(graphdef, params, monkeypatch):
    prompts = [list(np.random.default_rng(0).integers(1, 60, length)) for length in (75, 3, 33)]
    whole = answers(graphdef, params, prompts)
    monkeypatch.setattr(generate.shapes, "MOST_CHUNK", 32)
    assert answers(graphdef, params, prompts) == whole


def test_other_prompts_of_like_sizes_compile_nothing(graphdef, params):
    answers(graphdef, params, sampling=Sampling(max_new_tokens=8, temperature=1.0, top_k=3))
    before = compiled()
    other = Sampling(max_new_tokens=6, temperature=0.3, top_k=9, top_p=0.5, seed=4)
    answers(graphdef, params, [[9] * 20, [1, 2], [3]], other, stop_ids=[1, 2, 3])
    assert compiled() == before


@pytest.mark.parametrize(
    "sizes", [config.Mesh(data=2, fsdp=2, tensor=2), config.Mesh(fsdp=2, context=2, expert=2)]
)
@pytest.mark.parametrize("sampling", [GREEDY, BY_CHANCE], ids=["greedy", "by chance"])
def test_a_mesh_changes_nothing_and_compiles_each_part_once(graphdef, params, sizes, sampling):
    alone = answers(graphdef, params, sampling=sampling)
    over = mesh.make_mesh(sizes)
    _, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
    with jax.set_mesh(over):
        placed = jax.device_put(params, state.shardings(shapes, axes, over))
        before = compiled()
        found = answers(graphdef, placed, sampling=sampling, tokens_between=3)
        assert found == alone
        assert [now - then for now, then in zip(compiled(), before, strict=True)][:3] == [1, 1, 1]


def test_what_fits_follows_from_the_memory(graphdef, params, monkeypatch):
    shape = shape_of(1, 100, 28, 1)
    monkeypatch.setattr(memory, "_free_bytes", lambda: 10 * one + one // 2)
    one = memory.row_bytes(graphdef, params, shape)
    cache = 2 * 2 * shape.slots * 2 * 8 * 4  # keys and values, layers, kv heads, dims, bytes
    attention = 2 * 4 * shape.chunk * shape.slots * 4  # logits and shares, heads, bytes
    assert cache + attention < one < 1.1 * (cache + attention)
    assert memory.rows_that_fit(graphdef, params, shape) == 10
    monkeypatch.setattr(memory, "_free_bytes", lambda: 0)
    assert memory.rows_that_fit(graphdef, params, shape) == 1
    monkeypatch.undo()
    assert memory.rows_that_fit(graphdef, params, shape) == MOST_ROWS


def test_an_answer_ends_with_the_positions_of_the_model(graphdef, params):
    sampling = Sampling(max_new_tokens=40)
    found = generate.generate(graphdef, params, [[3] * 120, [7]], sampling, stop_ids=[])
    assert [len(answer.ids) for answer in found] == [8, 40]
    assert not any(answer.ended for answer in found)
    for prompt in ([3] * 128, []):
        with pytest.raises(ConfigError, match=rf"prompt 1 has {len(prompt)} tokens"):
            answers(graphdef, params, [[7], prompt])


def test_left_padded_picture():
    tokens, segments = generate.left_padded([[5, 6, 7], [8]], 2, 4)
    np.testing.assert_array_equal(tokens, [[0, 5, 6, 7], [0, 0, 0, 8]])
    np.testing.assert_array_equal(segments, [[0, 1, 1, 1], [0, 0, 0, 1]])
