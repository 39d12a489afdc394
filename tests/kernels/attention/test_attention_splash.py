"""Splash attention, run without a TPU: equal to the reference, and it skips what it may."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.attention import attend, blocks, splash
from jaxsft.kernels.attention.form import Use
from tests.kernels.attention import attention_cases as cases

interpreted = functools.partial(splash.attend, interpret=True)
WINDOWS = (50, 70, 2**30)
OPTIONS = [
    ({}, None),
    ({"windows": (70,)}, 70),
    ({"windows": WINDOWS, "scale": 0.3}, jnp.int32(70)),
    ({"soft_cap": 3.0, "sinks": True}, None),
]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(splash, "_BLOCK_SIZES", (128,))


@pytest.mark.parametrize(
    ("static", "window"), OPTIONS, ids=["plain", "window", "windows", "cap and sinks"]
)
def test_equals_the_reference(static, window):
    form = cases.form(**static)
    cases.assert_equals_reference(interpreted, cases.packed(length=384), form, window)


def test_many_rows_share_one_kernel(monkeypatch):
    monkeypatch.setattr(splash, "_MAX_UNROLLED_ROWS", 1)
    form = cases.form(windows=(100,))
    cases.assert_equals_reference(interpreted, cases.packed(length=384), form)


def test_a_block_that_is_skipped_wrongly_is_seen(monkeypatch):
    sound = blocks.needed

    def skips_one(*args):
        return sound(*args).at[2, 2].set(False)

    monkeypatch.setattr(blocks, "needed", skips_one)
    with pytest.raises(AssertionError, match="out differs"):
        cases.assert_equals_reference(interpreted, cases.packed(length=384))


@pytest.mark.parametrize(
    "sizes", [config.Mesh(fsdp=2, context=2, tensor=2), config.Mesh(fsdp=1, context=2, tensor=4)]
)
def test_equals_the_reference_over_a_mesh(monkeypatch, sizes):
    """Queries split over context; of 2 key-value heads over tensor=4 each device takes one."""
    monkeypatch.setitem(attend.BACK_ENDS, "splash", interpreted)
    form = cases.form(back_end="splash")
    with jax.set_mesh(mesh.make_mesh(sizes)):
        cases.assert_equals_reference(attend.attend, cases.packed(length=256), form)


@pytest.mark.parametrize("first_query", [0, 8])
def test_needed_blocks_hold_all_visible_pairs_and_of_packed_rows_no_others(first_query):
    rng = np.random.default_rng(0)
    for kind in ("one", "ordered", "mixed"):
        segments_S = rng.integers(1, 5, 32) if kind != "one" else np.ones(32, int)
        segments_S = np.sort(segments_S) if kind == "ordered" else segments_S
        segments_S[29:] = 1 if kind == "one" else 0
        q_segments_T = segments_S[first_query:]
        for window in (None, 3, 9):
            needed_IJ = blocks.needed(
                *map(jnp.asarray, (q_segments_T, segments_S)), first_query, window, (4, 8)
            )
            seen = cases.visible(q_segments_T, segments_S, first_query, window)
            holds = seen.reshape(len(q_segments_T) // 4, 4, 4, 8).any(axis=(1, 3))
            assert np.all(needed_IJ >= holds)
            if kind == "one" or (kind == "ordered" and window is None):
                np.testing.assert_array_equal(needed_IJ, holds)


@pytest.mark.parametrize(
    ("windows", "query_length", "segment_length", "blocks_of_16"),
    [
        ((), 512, 512, 10),  # those at and below the diagonal
        ((), 256, 512, 10),  # the same, half of the queries on each of two devices
        ((), 512, 128, 4),
        ((), 512, 256, 6),
        ((), 512, 160, 7),  # three begin in the midst of a block
        ((128,), 512, 512, 7),  # the diagonal and the one below it
        ((128, 2**30), 512, 512, 8.5),
    ],
)
def test_the_plan_counts_the_blocks_that_are_needed(
    windows, query_length, segment_length, blocks_of_16
):
    form = cases.form(windows=windows)
    use = Use(
        form=form,
        platform="tpu",
        length=512,
        query_length=query_length,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        dtype="bfloat16",
    )
    assert blocks.needed_share(use, segment_length, splash.block_sizes(use)) == blocks_of_16 / 16
