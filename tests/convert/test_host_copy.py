"""Blocks are copied as numpy copies the whole, for every order and dtype."""

import ml_dtypes
import numpy as np
import pytest

from jaxsft.convert import host_copy

ORDERS = {
    "same": lambda a: a,
    "transposed": lambda a: a.T,
    "heads": lambda a: a.reshape(30, 10, 70).transpose(2, 0, 1),
    "row": lambda a: a[3],
    "part": lambda a: a[7:, ::2].T[:, 1:],
    "scalar": lambda a: a[0, 0, ...],
    "empty": lambda a: a[:0],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_values_are_those_of_numpy(order, dtype, monkeypatch):
    monkeypatch.setattr(host_copy, "_BLOCK_ITEMS", 1000)  # many blocks, the last one short
    source = ORDERS[order](np.random.default_rng(0).standard_normal((300, 70)).astype(dtype))
    target = host_copy.zeros(source.shape)
    assert host_copy.copy(target, source)
    np.testing.assert_array_equal(target, source.astype(np.float32))
    assert target.ctypes.data % 64 == 0 or not target.size


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_one_value_that_is_not_finite_is_found_in_any_block(value, dtype, monkeypatch):
    monkeypatch.setattr(host_copy, "_BLOCK_ITEMS", 1000)
    for row in (0, 150, 299):
        source = np.ones((300, 70), dtype)
        source[row, 5] = value
        assert not host_copy.copy(host_copy.zeros((70, 300)), source.T)


def test_large_values_are_finite():
    source = np.full((4, 4), 3e38, np.float32)  # their sum is not
    assert host_copy.copy(host_copy.zeros((4, 4)), source)
