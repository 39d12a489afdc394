"""Rows of tokens may say what a teacher thought of each that is trained."""

import json

import numpy as np
import pytest

from jaxsft.data.conversation import BadRow, RawRow, Tokenized
from jaxsft.data.read.formats import record_of

ROW = {
    "input_ids": [1, 9, 40, 2],
    "weights": [0, 0, 1, 0.5],
    "teacher_ids": [None, [3], [7, 40], [2]],
    "teacher_logprobs": [None, [-0.5], [-3.2, -0.1], [0]],
}


def record(row, arrow=False):
    data = row if arrow else json.dumps(row).encode()
    return record_of(RawRow("f.jsonl", 3, data), "tokenized", {})


@pytest.mark.parametrize("arrow", [False, True])
def test_the_likeliest_stand_first_at_each_trained_token(arrow):
    result = record(ROW, arrow)
    assert isinstance(result, Tokenized), result
    teacher = result.teacher
    assert (teacher.ids_SX.dtype, teacher.logprobs_SX.dtype) == (np.int32, np.float32)
    assert teacher.ids_SX.tolist() == [[40, 7], [2, -1]]
    np.testing.assert_allclose(teacher.logprobs_SX, [[-0.1, -3.2], [0, 0]])
    assert result.unread == ()


def test_a_row_without_is_as_it_was():
    plain = {key: value for key, value in ROW.items() if "teacher" not in key}
    assert record(plain).teacher is None
    assert record(plain | {"teacher_ids": None, "teacher_logprobs": None}).teacher is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_ids": None}, "has teacher_logprobs but no teacher_ids; one says nothing"),
        ({"teacher_ids": 7}, "teacher_ids is 7; expected a list for each token"),
        ({"teacher_ids": [[7]]}, "teacher_ids has 1 lists, input_ids has 4 tokens"),
        (
            {"teacher_ids": [None, None, None, [2]]},
            "teacher_ids[2] is None, at a token that is trained; expected a list of numbers",
        ),
        ({"teacher_ids": [[], [], [], [2]]}, "teacher_ids[2] is [], at a token that is trained"),
        ({"teacher_ids": [[], [], ["a"], [2]]}, "teacher_ids[2] is ['a'], at a token that is"),
        (
            {"teacher_ids": [[], [], [7], [2]]},
            "teacher_ids[2] has 1 tokens, teacher_logprobs[2] 2",
        ),
        ({"teacher_ids": [[], [], [7, 7], [2]]}, "teacher_ids[2] is [7, 7]; expected ids, each"),
        ({"teacher_ids": [[], [], [7, -1], [2]]}, "teacher_ids[2] is [7, -1]; expected ids"),
        (
            {"teacher_logprobs": [[], [], [0.9, 0.1], [0]]},
            "teacher_logprobs[2] is [0.9, 0.1], probabilities that add up to 3.565; expected nat",
        ),
    ],
    ids=str,
)
def test_a_row_that_says_it_wrongly_is_bad(change, message):
    result = record(ROW | change)
    assert isinstance(result, BadRow), result
    assert message in str(result)
