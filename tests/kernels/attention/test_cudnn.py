"""cuDNN's calls on packed rows, as far as can be said without a GPU; and what they give on one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as of_jax

from jaxsft.errors import ConfigError
from jaxsft.kernels.attention import blocks, choose, cudnn, cudnn_calls, full
from jaxsft.kernels.attention.cudnn_calls import Operands, Results, Spans, Static
from jaxsft.kernels.attention.form import KeysAndValues, Use, Visibility
from jaxsft.model import remat
from tests.kernels.attention import attention_cases as cases


def test_spans_say_where_each_segment_starts_in_all_rows():
    segments = jnp.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]], jnp.int32)
    spans, fits = cudnn.spans_of(segments, 3)
    np.testing.assert_array_equal(spans.lengths_BM, [[3, 2, 1], [1, 5, 0]])
    np.testing.assert_array_equal(spans.starts_BZ.ravel()[:7], [0, 3, 5, 6, 7, 12, 12])
    np.testing.assert_array_equal(spans.starts_BZ.ravel()[7:], 12)
    assert fits


def test_rows_share_the_room_for_segments():
    segments = jnp.array([[1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1]], jnp.int32)
    assert not cudnn.spans_of(segments, 3)[1]
    spans, fits = cudnn.spans_of(segments, 4)
    assert fits
    np.testing.assert_array_equal(spans.lengths_BM.ravel(), [1, 1, 1, 1, 1, 1, 6, 0])


@pytest.mark.parametrize("row", [[1, 2, 3, 4, 5, 0], [1, 1, 2, 1, 1, 1], [0, 0, 1, 1, 2, 2]])
def test_what_the_spans_cannot_hold_does_not_fit(row):
    """Too many segments, one in two pieces, padding in front."""
    assert not cudnn.spans_of(jnp.array([row], jnp.int32), 4)[1]


@pytest.fixture
def calls(monkeypatch):
    """The room that each call has, with the definition of its arguments in cuDNN's place."""
    calls = []

    def attend(q, k, v, spans, static):
        B, T = q.shape[:2]
        starts, lengths = spans.starts_BZ.ravel()[: spans.lengths_BM.size], spans.lengths_BM.ravel()
        places, starts = jnp.arange(B * T)[:, None], starts[None]
        inside = (places >= starts) & (places < starts + lengths[None])
        segments = jnp.sum(inside * jnp.arange(1, 1 + lengths.size)[None], axis=1).reshape(B, T)
        form = cases.form(
            scale=static.scale, windows=() if static.window is None else (static.window,)
        )
        visibility = Visibility(segments, segments, window=static.window)
        return full.attend(q, KeysAndValues(k, v), visibility, form)

    def forward(operands, static):
        calls.append(operands.spans.lengths_BM.shape)
        return Results(attend(*operands, static), jnp.ones((1, 1, 1)))

    def backward(operands, results, d_out, static):
        assert results.statistics_XNT.shape == (1, 1, 1)
        return jax.vjp(lambda q, k, v: attend(q, k, v, operands.spans, static), *operands[:3])[1](
            d_out
        )

    monkeypatch.setattr(cudnn_calls, "forward", forward)
    monkeypatch.setattr(cudnn_calls, "backward", backward)
    return calls


@pytest.mark.parametrize(("room", "windows"), [(16, (9,)), (None, ()), (4, ())])
def test_cudnn_gets_each_segment(calls, room, windows):
    form = cases.form(scale=0.3, windows=windows, max_segments=room)
    cases.assert_equals_reference(cudnn.attend, cases.packed(length=64), form)
    assert set(calls) == {(2, room or 16)}


def test_a_batch_of_more_segments_than_there_is_room_for_is_no_number(calls):
    case = cases.packed(length=64)
    found = cases.outcome(cudnn.attend, case, cases.form(max_segments=2))
    assert all(np.isnan(np.asarray(array)).any() for array in found.values())


@pytest.mark.parametrize(("length", "room"), [(100, 16), (2048, 16), (2560, 20)])
def test_where_the_rows_are_not_known_the_room_is_by_their_length(calls, length, room):
    array = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
    seen = Visibility(jnp.ones((1, length), jnp.int32), jnp.ones((1, length), jnp.int32))

    def run(q):
        return cudnn.attend(q, KeysAndValues(q, q), seen, cases.form())

    jax.eval_shape(run, array)
    assert calls == [(1, room)]


def test_a_plan_adds_the_workspace_that_the_compiler_of_no_gpu_leaves_out():
    """As XLA for an H200 took it with one: 8,657,076,992 bytes, some thousand of them its own."""
    call = (
        "%ffi_call.13 = (bf16[4,32,4096,64]{3,1,2,0}, bf16[4,8,4096,64]{3,1,2,0},"
        " bf16[4,8,4096,64]{3,1,2,0}, u8[0]{0}) custom-call(%q), operand_layout_constraints="
        "{bf16[4,4096,32,64]{3,2,1,0}, f32[128,32,4096]{2,1,0}},"
        ' custom_call_target="__cudnn$fmhaSoftmaxBackward"'
    )
    smaller = call.replace("f32[128", "f32[16")
    found = cudnn_calls.workspace_bytes(f"ENTRY\n{smaller}\n{call}\n")
    assert found == 128 * 32 * 4096 * (8 * 64 + 4)
    assert found == pytest.approx(8_657_076_992, rel=1e-5)
    assert cudnn_calls.workspace_bytes(call.replace("u8[0]", "u8[8657076992]")) == 0
    forward = call.replace("Backward", "")
    assert cudnn_calls.workspace_bytes(forward) == 0
    assert [cudnn_calls.products(one) for one in (forward, call, "dot()")] == [2, 5, None]


def use(**changed) -> Use:
    shape = {"query_length": changed["length"], "num_heads": 32, "num_kv_heads": 8, "head_dim": 128}
    return Use(platform="gpu", dtype="bfloat16", **(shape | changed))


@pytest.mark.parametrize(
    ("max_segments", "head_dim", "name"),
    [(8, 128, "cudnn"), (9, 128, "triton"), (None, 128, "triton"), (64, 256, "cudnn")],
)
def test_rows_of_many_segments_are_left_to_triton_where_that_can(max_segments, head_dim, name):
    asked = use(form=cases.form(max_segments=max_segments), length=4096, head_dim=head_dim)
    assert choose.choose("auto", asked, None)[0] == name
    assert choose.choose("cudnn", asked, None)[0] == "cudnn"


def test_deterministic_operations_are_left_to_triton_and_said_to_cudnn(monkeypatch):
    """XLA ends at the second of two like calls that don't say it themselves."""
    asked = use(form=cases.form(max_segments=4), length=4096)
    assert "force_deterministic" not in backward_of(asked)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert choose.choose("auto", asked, None)[0] == "triton"
    assert choose.choose("cudnn", asked, None)[0] == "cudnn"
    assert backward_of(asked).count("\\22force_deterministic\\22: true") == 1


def backward_of(asked: Use) -> str:
    """The lowered gradient of one row."""
    array = jax.ShapeDtypeStruct((1, 128, 2, 16), jnp.bfloat16)
    segments = jnp.ones((1, 128), jnp.int32)

    def run(q):
        seen = Visibility(segments, segments)
        return cudnn.attend(q, KeysAndValues(q, q), seen, asked.form).astype(jnp.float32).sum()

    return jax.jit(jax.grad(run)).trace(array).lower(lowering_platforms=("cuda",)).as_text()


def test_rows_too_many_for_its_offsets_are_refused():
    q = jax.ShapeDtypeStruct((512, 1024, 32, 128), jnp.bfloat16)
    kv = jax.ShapeDtypeStruct((512, 1024, 8, 128), jnp.bfloat16)
    segments = jnp.ones((512, 1024), jnp.int32)

    def run(q, k, v):
        seen = Visibility(segments, segments)
        return cudnn.attend(q, KeysAndValues(k, v), seen, cases.form())

    with pytest.raises(ConfigError, match="512 rows of a device at once are too many"):
        jax.eval_shape(run, q, kv, kv)


@pytest.mark.parametrize(("policy", "forwards"), [("save_context", 1), ("full", 2)])
def test_the_forward_pass_runs_once_where_its_results_are_kept(policy, forwards):
    case = cases.packed(length=128, dtype="bfloat16")
    kv = KeysAndValues(case.arrays["k"], case.arrays["v"])
    seen = Visibility(case.segments_BT, case.segments_BT)

    def layer(q):
        return jnp.sin(cudnn.attend(q, kv, seen, cases.form()))

    kept = remat.remat(layer, policy, {remat.Part.MIXED: (blocks.RESIDUAL_NAME,)})
    program = str(jax.make_jaxpr(jax.grad(lambda q: kept(q).sum()))(case.arrays["q"]))
    assert len(re.findall(r"fmhaSoftmax\b", program)) == forwards


@pytest.mark.parametrize("static", [{"soft_cap": 3.0}, {"sinks": True}, {"windows": (3, 5)}])
def test_what_was_refused_does_not_come_to_it(static):
    with pytest.raises(AssertionError, match="refused before"):
        cases.outcome(cudnn.attend, cases.packed(length=128), cases.form(**static))


def test_the_calls_are_those_that_jax_makes(monkeypatch):
    """Operands, results and XLA's description, of an installed jax."""
    monkeypatch.setattr(of_jax, "check_is_flash_attention", lambda *args, **named: None)
    monkeypatch.setattr(of_jax, "check_cudnn_version", lambda: 91000)
    B, T, N, K, H, M = 2, 256, 4, 2, 64, 4
    shapes = [(B, T, heads, H) for heads in (N, K, K, N)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    spans = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((B, M), (B, M + 1))]
    static = Static(0.3, 9)

    def ours(q, k, v, d_out, lengths, starts):
        operands = Operands(q, k, v, Spans(lengths, starts))
        results = cudnn_calls.forward(operands, static)
        return cudnn_calls.backward(operands, results, d_out, static)

    def theirs(q, k, v, d_out, lengths, starts):
        def attend(q, k, v):
            return of_jax.dot_product_attention(
                q,
                k,
                v,
                q_seqlen=lengths,
                kv_seqlen=lengths,
                q_offsets=starts,
                kv_offsets=starts,
                scale=static.scale,
                mask_type=of_jax.MaskType.PADDING_CAUSAL,
                sliding_window_length=static.window,
            )

        return jax.vjp(attend, q, k, v)[1](d_out)

    found, expected = (custom_calls(one, arrays + spans) for one in (ours, theirs))
    assert len(found) == 2
    assert found == expected


def custom_calls(run, args) -> list[dict[str, Any]]:
    """cuDNN's, in a program for a GPU: types, layouts, and what XLA reads of the description."""
    lowered = jax.jit(run).trace(*args).lower(lowering_platforms=("cuda",))
    lines = [line for line in lowered.as_text().splitlines() if "@__cudnn$" in line]
    return [one_call(line) for line in lines]


def one_call(line: str) -> dict[str, Any]:
    config = re.search(r'backend_config = "(.*?)(?<!\\)"', line)
    assert config
    said = json.loads(json.loads('"' + config[1].replace("\\22", '\\"') + '"'))
    attention = said["cudnn_fmha_backend_config"]
    attention["intermediate_tensor_shape"] = {
        name: attention["intermediate_tensor_shape"][name]
        for name in ("element_type", "dimensions")
    }
    patterns = (r"@__cudnn\S*?\(", r"api_version = \d+", r"operand_layouts.*?(?=\} :)")
    found = [re.search(pattern, line) for pattern in patterns]
    assert all(found), line
    return {
        "config": said,
        "types": line.rpartition(" : ")[2],
        "said": [one[0] for one in found if one],
    }


@pytest.mark.gpu
@pytest.mark.parametrize("windows", [(), (200,)])
@pytest.mark.parametrize(
    "shape",
    [{"heads": 3, "kv_heads": 1, "head_dim": 128}, {"heads": 16, "kv_heads": 4, "head_dim": 64}],
)
def test_on_a_gpu_it_equals_the_reference(shape, windows):
    """With room for all segments and padding of both rows, and for no more."""
    case = cases.packed(length=1024, dtype="bfloat16", **shape)
    form = cases.form(scale=0.1, windows=windows, max_segments=4)
    assert cudnn.spans_of(case.segments_BT, 4)[1] and not cudnn.spans_of(case.segments_BT, 3)[1]
    with jax.default_matmul_precision("highest"):
        cases.assert_equals_reference(cudnn.attend, case, form, allowed=2e-2)


# XLA ends the process where two calls are alike and don't say themselves that they repeat.
_TWO_LIKE_LAYERS = """
import jax, jax.numpy as jnp, numpy as np
from jaxsft.kernels.attention import cudnn
from jaxsft.kernels.attention.form import KeysAndValues, Visibility
from tests.kernels.attention import attention_cases as cases

case = cases.packed(length=1024, heads=4, kv_heads=2, head_dim=64, dtype="bfloat16")
seen = Visibility(case.segments_BT, case.segments_BT)

def loss(arrays):
    kv = KeysAndValues(arrays["k"], arrays["v"])
    out = arrays["q"]
    for _ in range(2):
        out = cudnn.attend(out, kv, seen, cases.form(max_segments=4))
    return jnp.sum(jnp.sin(3 * out.astype(jnp.float32)))

gradient = jax.jit(jax.grad(loss))
first, again = gradient(case.arrays), gradient(case.arrays)
assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first))
jax.tree.map(np.testing.assert_array_equal, first, again)
print("the same bits")
"""


@pytest.mark.gpu
def test_on_a_gpu_like_layers_repeat_their_bits_where_xla_is_asked_for_that():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    done = subprocess.run(
        [sys.executable, "-c", _TWO_LIKE_LAYERS],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "the same bits\n"), done.stderr
