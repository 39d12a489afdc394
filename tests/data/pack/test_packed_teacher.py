"""What a teacher said lies at the places of the packed targets."""

import numpy as np
import pytest

from jaxsft.data.conversation import TeacherTargets
from jaxsft.data.pack.teacher_rows import teacher_rows


def said(ids, logprobs):
    return TeacherTargets(np.array(ids, np.int32), np.array(logprobs, np.float32))


# As in the docstring: two examples of one target each, the second with fewer tokens.
TAUGHT = [said([[7, 4]], [[-0.3, -2]]), said([[5]], [[-0.1]])]
WEIGHTS = np.array([[0, 2, 1, 0]], np.float32)


def test_it_is_the_picture():
    made = teacher_rows(TAUGHT, WEIGHTS, 2)
    ids, logprobs = made["teacher_ids_BTX"], made["teacher_logprobs_BTX"]
    assert ids.tolist() == [[[-1, -1], [7, 4], [5, -1], [-1, -1]]]
    np.testing.assert_allclose(logprobs, [[[0, 0], [-0.3, -2], [-0.1, 0], [0, 0]]])
    assert (ids.dtype, logprobs.dtype) == (np.int32, np.float32)


def test_what_is_less_likely_than_the_first_is_left_out():
    assert teacher_rows(TAUGHT, WEIGHTS, 1)["teacher_ids_BTX"][0, 1:3].tolist() == [[7], [5]]


def test_a_row_of_padding_has_nothing():
    made = teacher_rows([], np.zeros((1, 3), np.float32), 2)
    assert (made["teacher_ids_BTX"] == -1).all() and made["teacher_ids_BTX"].shape == (1, 3, 2)


def test_words_of_other_targets_are_a_fault():
    with pytest.raises(AssertionError, match="words of 2 targets, but there are 1"):
        teacher_rows(TAUGHT, np.array([[0, 1, 0]], np.float32), 2)
