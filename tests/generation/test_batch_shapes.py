"""Batches come in few shapes, and hold all that they are asked to hold."""

import math

from jaxsft.generation import shapes
from jaxsft.generation.shapes import BatchShape


def test_sizes_grow_by_a_half_and_a_third():
    assert [shapes.rounded_up(size, 64) for size in (1, 64, 65, 96, 97, 129, 1000)] == [
        *(64, 64, 96, 96, 128, 192, 1024)
    ]


def test_the_shape_of_a_batch():
    assert shapes.shape_of(3, 20, 30, 1) == BatchShape(rows=4, chunk=32, chunks=1, slots=64)
    assert shapes.shape_of(3, 20, 30, 6) == BatchShape(rows=6, chunk=32, chunks=1, slots=64)
    assert shapes.shape_of(9, 1100, 128, 4) == BatchShape(rows=16, chunk=512, chunks=3, slots=2048)


def test_every_prompt_and_answer_has_its_place_in_few_shapes():
    found = set()
    for longest in range(1, 3000, 7):
        for new in (1, 100, 2000):
            shape = shapes.shape_of(5, longest, new, 1)
            assert longest <= shape.chunk * shape.chunks and shape.rows == 8
            assert shape.chunk * shape.chunks + new <= shape.slots
            found.add((shape.chunk, shape.slots))
    assert len(found) <= 5 * 2 * math.log2(3000)


def test_batches_are_of_like_lengths_the_longest_first():
    assert shapes.batches([3, 9, 9, 1, 5], 2) == [[1, 2], [4, 0], [3]]
