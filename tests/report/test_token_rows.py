"""Which tokens' rows moved and by how much, in either table, on one device and on a mesh."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jaxsft.config import Mesh
from jaxsft.devices import mesh
from jaxsft.model import state
from jaxsft.model.adapter import Adapted
from jaxsft.report import token_rows

TIED = dataclasses.replace(tiny.SETTINGS, tied_embeddings=True)


def pair(s=tiny.SETTINGS):
    return tiny.host_params(s), tiny.host_params(s)


def measured(base, result, new_ids=()):
    base, result = (jax.tree.map(jax.numpy.asarray, tree) for tree in (base, result))
    return token_rows.measured(base, result, "<{}>".format, new_ids)


def check_moved(embedding, head, before):
    """The rows 3, 5 and 8 of the embedding moved by 1, 2 and 3e-6, row 7 of the head by 1."""
    assert (embedding.moved, embedding.rows, embedding.tied) == (3, 64, False)
    assert [row.id for row in embedding.top] == [5, 3, 8]
    assert [row.text for row in embedding.top] == ["<5>", "<3>", "<8>"]
    np.testing.assert_allclose([row.change for row in embedding.top], [2, 1, 3e-6], rtol=1e-2)
    norm = np.linalg.norm(before["embedding_VD"][5])
    assert embedding.top[0].norm == pytest.approx(norm, rel=1e-5)
    (row,) = head.top
    assert (head.name, head.moved, row.id) == ("head_DV", 1, 7)
    assert row.norm == pytest.approx(np.linalg.norm(before["head_DV"][:, 7]), rel=1e-5)


def moved_pair():
    base, result = pair()
    base["embedding_VD"][8, 0] = 0  # where float32 can hold so small a change
    result["embedding_VD"][8, 0] = 3e-6
    result["embedding_VD"][3, 0] += 1
    result["embedding_VD"][5, 1] -= 2
    result["head_DV"][0, 7] += 1
    return base, result


def test_rows_that_moved_are_told_with_how_far():
    base, result = moved_pair()
    check_moved(*measured(base, result), base)


def test_it_is_the_same_on_a_mesh():
    base, result = moved_pair()
    over = mesh.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    _, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
    places = state.shardings(shapes, axes, over)
    there = [jax.tree.map(jax.device_put, tree, places) for tree in (base, result)]
    check_moved(*token_rows.measured(*there, "<{}>".format), base)


def test_a_tied_table_is_told_once_and_new_tokens_are_marked():
    base, result = pair(TIED)
    result["embedding_VD"][:50] += 1
    result["embedding_VD"][62] += 1e-3
    (table,) = measured(base, result, new_ids={62, 63})
    assert (table.tied, table.moved, table.new, table.new_moved) == (True, 51, 2, 1)
    assert len(table.top) == 21 and [row.id for row in table.top if row.new] == [62]


def test_of_an_adapter_of_the_table_it_is_the_rows_that_it_changes():
    base, result = pair(TIED)
    a = np.zeros((64, 2), np.float32)
    a[9] = 1
    result["embedding_VD"] = Adapted(
        base["embedding_VD"], a, np.ones((2, 32), np.float32), np.float32(0.5)
    )
    (table,) = measured(base, result)
    (row,) = table.top
    assert row.id == 9 and row.change == pytest.approx(np.sqrt(32), rel=1e-5)


@pytest.mark.parametrize("figure", token_rows.FIGURES)
def test_what_is_computed_holds_nothing_as_large_as_a_table(figure):
    shape, size = (200_000, 64), 200_000 * 64 * 4
    base, result = jax.ShapeDtypeStruct(shape, "float32"), jax.ShapeDtypeStruct(shape, "float32")
    compiled = jax.jit(figure, static_argnums=2).lower(base, result, "embedding_VD").compile()
    assert compiled.memory_analysis().temp_size_in_bytes < size / 10
