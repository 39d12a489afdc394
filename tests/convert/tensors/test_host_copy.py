"""Blocks are copied as numpy copies the whole, for every order and dtype."""

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from jaxsft.convert.tensors import host_copy

ORDERS = {
    "same": lambda a: a,
    "transposed": lambda a: a.T,
    "heads": lambda a: a.reshape(30, 10, 70).transpose(2, 0, 1),
    "row": lambda a: a[3],
    "part": lambda a: a[7:, ::2].T[:, 1:],
    "scalar": lambda a: a[0, 0, ...],
    "empty": lambda a: a[:0],
}


DTYPES = [np.dtype(d) for d in (ml_dtypes.bfloat16, np.float16, np.float32)]
KEPT = [np.dtype(d) for d in (ml_dtypes.bfloat16, np.float32)]  # as parameters


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setattr(host_copy, "_BLOCK_ITEMS", 1000)  # many blocks, the last one short
    monkeypatch.setattr(host_copy, "_TASK_BLOCKS", 3)
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_values_are_those_of_numpy(order, dtype, kept, threads):
    source = ORDERS[order](np.random.default_rng(0).standard_normal((300, 70)).astype(dtype))
    target = host_copy.zeros(source.shape, kept)
    assert host_copy.copy(target, source, threads)
    np.testing.assert_array_equal(target, source.astype(kept), strict=True)
    assert target.ctypes.data % 64 == 0 or not target.size


def test_no_block_is_larger_than_a_block(threads, monkeypatch):
    sizes = []
    real = host_copy._is_finite
    monkeypatch.setattr(host_copy, "_is_finite", lambda b: sizes.append(b.nbytes) or real(b))
    source = np.zeros((7, 300, 70), np.float32).transpose(1, 0, 2)  # 21,000 items in each of 7
    host_copy.copy(host_copy.zeros(source.shape, source.dtype), source, threads)
    assert (sum(sizes), max(sizes)) == (source.nbytes, 4 * 980)  # 14 rows of 70


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_one_value_that_is_not_finite_is_found_in_any_block(value, dtype, kept, threads):
    for row in (0, 150, 299):
        source = np.ones((300, 70), dtype)
        source[row, 5] = value
        assert not host_copy.copy(host_copy.zeros((70, 300), kept), source.T, threads)


@pytest.mark.parametrize("sign", [1, -1])
def test_large_values_are_finite_where_they_fit(sign, threads):
    largest = sign * np.full((4, 4), np.finfo(np.float32).max)
    assert host_copy.copy(host_copy.zeros((4, 4), np.dtype(np.float32)), largest, threads)
    assert not host_copy.copy(host_copy.zeros((4, 4), KEPT[0]), largest, threads)
