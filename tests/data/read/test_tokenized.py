"""Rows of tokens say which of them are trained, and nothing is guessed."""

import json
import re

import numpy as np
import pytest

from jaxsft.data.conversation import BadRow, RawRow, Tokenized
from jaxsft.data.read.formats import record_of


def record(row, arrow=False):
    data = row if arrow else json.dumps(row).encode()
    return record_of(RawRow("f.jsonl", 3, data), "tokenized", {})


IDS = [1, 9, 40, 2]


@pytest.mark.parametrize(
    "row, weights",
    [
        ({"labels": [-100, -100, 40, 2]}, [0, 0, 1, 1]),
        ({"labels": IDS, "attention_mask": [1, 1, 1, 1]}, [0, 1, 1, 1]),
        ({"weights": [1, 0, 0.5, 2], "position_ids": [0, 1, 2, 3]}, [0, 0, 0.5, 2]),
        ({"assistant_masks": [1, 0, 1, 1]}, [0, 0, 1, 1]),
        ({"completion_mask": [False, False, True, True]}, [0, 0, 1, 1]),
        ({"loss_mask": [0, 0, 0, 1.0], "labels": None}, [0, 0, 0, 1]),
        ({}, [0, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("arrow", [False, True])
def test_tokens_and_which_of_them_are_trained(row, weights, arrow):
    result = record({"input_ids": IDS, **row}, arrow=arrow)
    assert isinstance(result, Tokenized), result
    assert (result.ids.dtype, result.weights.dtype) == (np.int32, np.float32)
    assert (result.ids.tolist(), result.weights.tolist()) == (IDS, weights)
    assert (result.file, result.row) == ("f.jsonl", 3)


DEFECTS = [
    ({"input_ids": []}, r"input_ids=\[\]: there is no token"),
    ({"input_ids": "12"}, "input_ids is '12'; expected a list of numbers"),
    ({"input_ids": [[1]]}, r"input_ids is \[\[1\]\]"),
    ({"input_ids": [1, [1]]}, r"input_ids is \[1, \[1\]\]"),
    ({"input_ids": [1.5]}, r"input_ids is \[1.5\]"),
    ({"input_ids": IDS, "labels": [1]}, "labels has 1 numbers, input_ids has 4"),
    (
        {"input_ids": IDS, "labels": [9, 40, 2, -100]},
        r"labels\[0\]=9 but input_ids\[0\]=1; .*: these are shifted by one, shift them back",
    ),
    ({"input_ids": [1, 2], "weights": [1, -1]}, r"weights\[1\]=-1: expected a "),
    (
        {"input_ids": [1, 2], "weights": [1, 1e39]},
        r"weights\[1\]=1e\+39: expected a number of 0, or",
    ),
    ({"input_ids": [1, 2], "weights": [1, 1e-46]}, r"weights\[1\]=1e-46: expected a number of 0"),
    ({"input_ids": [1, 2], "loss_mask": [1, 2]}, r"loss_mask\[1\]=2: expected 0 "),
    (
        {"input_ids": [1], "labels": [1], "weights": [1]},
        "has labels and weights; keep the one",
    ),
    (
        {"input_ids": [1, 0], "attention_mask": [1, 0]},
        r"attention_mask\[1\]=0: leave the padding out",
    ),
    (
        {"input_ids": [1, 2, 3], "position_ids": [0, 0, 1]},
        r"position_ids\[1\]=0: a packed row; give each document a row",
    ),
]


@pytest.mark.parametrize("row, match", DEFECTS, ids=range(len(DEFECTS)))
def test_tokens_that_do_not_fit_say_so(row, match):
    bad = record(row)
    assert isinstance(bad, BadRow), bad
    assert re.search(match, str(bad)) and str(bad).startswith("f.jsonl:3: ")
