"""A cache gives back what rows say of a teacher, of any of its examples and in a part of it."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxsft.config import Data, Source
from jaxsft.data.cache import shards
from jaxsft.data.cache.divided import divided
from jaxsft.data.cache.prepare import prepare
from jaxsft.errors import DataError

WIDTHS = [2, 0, 3, 1, 2, 2, 0, 4, 1, 5]  # tokens named at a place; 0: the row has no teacher


def made(number, width):
    """A row of five tokens, of which the last `1 + number % 3` are trained."""
    trained = 1 + number % 3
    row = {
        "input_ids": [20 + number + i for i in range(5)],
        "weights": [0] * (5 - trained) + [1] * trained,
    }
    if width:
        ids = [[10 * number + i for i in range(width)]] * 5
        row |= {"teacher_ids": ids, "teacher_logprobs": [[math.log(0.9 / width)] * width] * 5}
    return row


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [made(*pair) for pair in enumerate(WIDTHS)]
    taught = {"teacher_ids": [[1]] * 99, "teacher_logprobs": [[0]] * 99}
    rows.insert(4, {"input_ids": [7] * 99, **taught})  # is dropped
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(path=str(file), format="tokenized")


@pytest.fixture
def data(tmp_path):
    return Data(train=(), sequence_length=64, cache_dir=str(tmp_path / "cache"))


@pytest.fixture
def cache(source, data, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    return prepare((source,), data, tokenizer_dir)


def assert_has(cache, numbers):
    """The examples are those of the rows that were made with these numbers."""
    assert cache.widths.tolist() == [WIDTHS[n] for n in numbers]
    order = [*range(len(numbers))][::-1]
    for place, one in zip(order, cache.taught(order), strict=True):
        number = numbers[place]
        width, trained = WIDTHS[number], 1 + number % 3
        ids, logprobs = one.ids_SX, one.logprobs_SX
        assert ids.tolist() == [[10 * number + i for i in range(width)]] * trained * bool(width)
        np.testing.assert_allclose(logprobs, np.full(ids.shape, math.log(0.9 / max(width, 1))))


def test_of_any_example_and_across_shards(cache):
    assert len(cache.manifest.shards) == 4
    assert_has(cache, [*range(10)])


def test_of_a_part_of_it(cache, data):
    train, held = divided(cache, dataclasses.replace(data, holdout=3))
    assert len(train) + len(held) == 10 and len(held) >= 3
    for part in (train, held):
        rows = [part.source_of(index)[1] for index in range(len(part))]
        assert_has(part, [row - 1 - (row > 5) for row in rows])  # the long row is the fifth


def test_a_changed_number_is_found(cache, source, data, tokenizer_dir):
    file = cache.directory / "teacher_logprobs_SX.bin"
    held = bytearray(file.read_bytes())
    held[-1] ^= 1
    file.write_bytes(held)
    again = prepare((source,), data, tokenizer_dir)
    assert again.taught([0])[0].ids_SX.tolist() == [[0, 1]]
    with pytest.raises(DataError, match="examples 8 to 9 differ from their checksum"):
        again.taught([9])
    file.write_bytes(held[:-4])
    with pytest.raises(DataError, match="teacher_logprobs_SX.bin has .* bytes for .* numbers"):
        prepare((source,), data, tokenizer_dir)


def test_a_teacher_of_other_tokens_than_the_models_is_a_bad_row(source, data, tokenizer_dir):
    with pytest.raises(DataError, match="the model's vocab_size=90"):
        prepare((source,), data, tokenizer_dir, vocab_size=90)
