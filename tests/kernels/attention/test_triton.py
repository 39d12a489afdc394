"""The kernels for GPUs, interpreted: they equal the reference, and visit what they have to."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft.devices.mesh import AXES
from jaxsft.kernels.attention import blocks, triton, triton_calls, triton_tiling, triton_visits
from jaxsft.kernels.attention.form import KeysAndValues, Visibility
from jaxsft.kernels.attention.triton_tiling import Tiling, Tilings
from jaxsft.model import remat
from jaxsft.model.attention.grouped_queries import GROUPED_QUERIES
from jaxsft.model.attention.kinds import RunShape
from tests.kernels.attention import attention_cases as cases

# Many blocks in short rows; each kernel has its own sizes, and either is the greater one.
_SMALL = Tilings(Tiling(32, 16, 4, 2), Tiling(16, 32, 4, 2), Tiling(16, 16, 4, 2))
interpreted = functools.partial(triton.attend, interpret=True, tilings=_SMALL)


def in_pieces(case):
    """Padding in front and between, a segment in two pieces, numbers that go down."""
    rows = [
        np.repeat([0, 3, 1, 0, 3, 2], [9, 21, 34, 1, 40, 23]),
        np.repeat([2, 1, 2, 0], [50, 28, 30, 20]),
    ]
    return dataclasses.replace(case, segments_BT=jnp.asarray(np.stack(rows), jnp.int32))


@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 3, "kv_heads": 1, "head_dim": 64},
        {"heads": 2, "kv_heads": 2, "head_dim": 128},
        {"heads": 8, "kv_heads": 2, "head_dim": 12},  # filled up to 16
    ],
)
def test_it_equals_the_reference(shape):
    case = cases.packed(length=128, **shape)
    cases.assert_equals_reference(interpreted, case, cases.form(scale=0.3))


def test_segments_may_come_in_any_order_and_in_pieces():
    cases.assert_equals_reference(interpreted, in_pieces(cases.packed(length=128)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 3, "kv_heads": 1, "head_dim": 128},
        {"heads": 16, "kv_heads": 4, "head_dim": 64},
        {"head_dim": 96},
    ],
)
@pytest.mark.parametrize("windows", [(), (200,)])
def test_compiled_it_equals_the_reference(shape, windows):
    case = cases.packed(length=1024, dtype="bfloat16", **shape)
    form = cases.form(scale=0.1, windows=windows)
    with jax.default_matmul_precision("highest"):
        cases.assert_equals_reference(triton.attend, case, form, allowed=2e-2)


@pytest.mark.parametrize("window", [1, 20])
def test_a_layer_may_have_a_window(window):
    form = cases.form(windows=(1, 20))
    case = in_pieces(cases.packed(length=128, heads=2))
    cases.assert_equals_reference(interpreted, case, form, window)


def test_bfloat16_in_the_tilings_of_the_table():
    case = cases.packed(length=256, heads=3, kv_heads=1, dtype="bfloat16")
    run = functools.partial(triton.attend, interpret=True)
    cases.assert_equals_reference(run, case, cases.form(scale=0.3), allowed=2e-2)


def test_programs_share_the_heads_of_a_group_where_they_are_few(monkeypatch):
    """Each sums over two of four heads, and the sums are added up."""
    assert [triton_calls._heads_of_program(6, 6 * n) for n in (43, 85, 86, 128, 256)] == [
        *(1, 1, 2, 3, 6)
    ]
    monkeypatch.setattr(triton_calls, "_ENOUGH_PROGRAMS", 2 * 4 * 4)
    assert triton_calls._heads_of_program(4, 2 * 8 * 4) == 2
    cases.assert_equals_reference(interpreted, cases.packed(length=128, heads=8, kv_heads=2))


@pytest.mark.parametrize(("policy", "forwards"), [("save_context", 1), ("full", 2)])
def test_the_forward_pass_runs_once_where_its_results_are_kept(policy, forwards):
    case = cases.packed(length=128)
    kv = KeysAndValues(case.arrays["k"], case.arrays["v"])
    seen = Visibility(case.segments_BT, case.segments_BT)

    def layer(q):
        return jnp.sin(triton.attend(q, kv, seen, cases.form()))

    kept = remat.remat(layer, policy, {remat.Part.MIXED: (blocks.RESIDUAL_NAME,)})
    program = str(jax.make_jaxpr(jax.grad(lambda q: kept(q).sum()))(case.arrays["q"]))
    assert program.count("name=attention_forward") == forwards
    assert program.count("name=attention_keys_gradient") == 1
    assert "interpret=True" not in program


@pytest.mark.parametrize("static", [{"soft_cap": 3.0}, {"sinks": True}])
def test_what_was_refused_does_not_come_to_a_kernel(static):
    with pytest.raises(AssertionError, match="refused before"):
        cases.outcome(triton.attend, cases.packed(length=128), cases.form(**static))


@pytest.mark.parametrize("sizes", [(16, 16), (8, 32), (32, 8)])
@pytest.mark.parametrize("window", [None, 1, 25, 31])
def test_visits_hold_every_visible_pair_and_mask_no_other(sizes, window):
    """By the definition, pair by pair, in rows whose segments are in order and in others."""
    for case in (cases.packed(length=128), in_pieces(cases.packed(length=128))):
        of_queries, of_keys = visits(case.segments_BT, window, sizes)
        for row, segments_T in enumerate(np.asarray(case.segments_BT)):
            seen_TS = cases.visible(segments_T, segments_T, 0, window)
            seen_IJQC = seen_TS.reshape(
                128 // sizes[0], sizes[0], 128 // sizes[1], sizes[1]
            ).swapaxes(1, 2)
            _assert_right(of_queries[row], seen_IJQC)
            _assert_right(of_keys[row], seen_IJQC.swapaxes(0, 1))


@functools.partial(jax.jit, static_argnums=(1, 2))
def visits(segments_BT, window, sizes):
    return (
        triton_visits.of_queries(segments_BT, window, sizes),
        triton_visits.of_keys(segments_BT, window, sizes),
    )


def _assert_right(visits_XV, seen_XYQC):
    for visits, seen_YQC in zip(np.asarray(visits_XV), seen_XYQC, strict=True):
        first, whole_first, whole_end, end = visits
        assert first <= whole_first <= whole_end <= end
        assert not seen_YQC[:first].any() and not seen_YQC[end:].any()
        assert seen_YQC[whole_first:whole_end].all()


def test_visits_of_a_packed_row():
    """The docstring's picture; keys are visited by the queries from them on."""
    segments = jnp.asarray([[1, 1, 1, 2, *[2] * 8, 2, 2, 3, 3]], jnp.int32)
    of_queries, of_keys = visits(segments, None, (4, 4))
    assert of_queries.tolist() == [[[0, 0, 0, 1], [0, 0, 0, 2], [0, 1, 2, 3], [0, 0, 0, 4]]]
    assert of_keys.tolist() == [[[0, 0, 0, 4], [1, 2, 3, 4], [2, 2, 2, 4], [3, 3, 3, 4]]]


@pytest.mark.parametrize(("head_dim", "filled"), [(12, 16), (16, 16), (96, 128)])
def test_heads_are_filled_up_to_what_the_compiler_takes(monkeypatch, head_dim, filled):
    """A power of two, and no less than a product takes."""
    forward, shapes = triton_calls.forward, []

    def noted(static, tiling, visits_BIV, inputs):
        shapes.extend(array.shape[-1] for array in inputs[:3])
        return forward(static, tiling, visits_BIV, inputs)

    monkeypatch.setattr(triton_calls, "forward", noted)
    case = cases.packed(length=128, head_dim=head_dim)
    kv = KeysAndValues(case.arrays["k"], case.arrays["v"])
    seen = Visibility(case.segments_BT, case.segments_BT)
    out = jax.eval_shape(lambda q: triton.attend(q, kv, seen, cases.form()), case.arrays["q"])
    assert shapes == [filled] * 3 and out.shape[-1] == head_dim


def test_every_tiling_cuts_every_length_that_is_not_refused():
    for head_dim in (1, 16, 64, 65, 128):
        for tiling in triton_tiling.for_head_dim(head_dim):
            assert triton_tiling.LENGTH_UNIT % tiling.block_q == 0
            assert triton_tiling.LENGTH_UNIT % tiling.block_k == 0


@pytest.mark.parametrize(("segment_length", "blocks_of_64"), [(512, 36), (256, 20), (128, 12)])
def test_the_plan_counts_the_blocks_that_are_needed(segment_length, blocks_of_64):
    """Of 64 queries and 64 keys, those at and below each segment's diagonal."""
    settings = dataclasses.replace(tiny.SETTINGS, attention_back_end="triton")
    alone: dict[str, int] = dict.fromkeys(AXES, 1)
    run = RunShape(platform="gpu", mesh_sizes=alone, length=512, dtype="bfloat16")
    share = GROUPED_QUERIES.needed_pairs(settings, run, segment_length)
    assert share == blocks_of_64 / 64
