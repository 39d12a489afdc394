"""Decoding with the cache against running the whole text again for each token."""

import numpy as np
import pytest
import tiny

from jaxsft.evaluation.generate import generate, left_padded
from jaxsft.model import state

PROMPTS = [[5, 9, 12, 3], [7], [1, 2, 3, 4, 5, 6, 7]]


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


@pytest.fixture(scope="module")
def free(graphdef, params):
    """What follows each prompt where nothing stops it."""
    return generate(graphdef, params, PROMPTS, max_new_tokens=8, stop_ids=[])


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


def test_a_row_ends_with_its_stop_token(graphdef, params, free):
    stop = free[0][2]
    stopped = generate(graphdef, params, PROMPTS, max_new_tokens=8, stop_ids=[stop])
    for answer, whole in zip(stopped, free, strict=True):
        length = whole.index(stop) + 1 if stop in whole else 8
        assert answer == whole[:length]


def test_rows_added_for_the_mesh_change_nothing(graphdef, params, free):
    padded = generate(graphdef, params, PROMPTS, max_new_tokens=8, stop_ids=[], rows_multiple_of=8)
    assert padded == free


def test_left_padded_picture():
    tokens, segments = left_padded([[5, 6, 7], [8]], 2)
    np.testing.assert_array_equal(tokens, [[5, 6, 7], [0, 0, 8]])
    np.testing.assert_array_equal(segments, [[1, 1, 1], [0, 0, 1]])
