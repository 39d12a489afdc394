"""Time of operations by themselves, and where they come from; a GPU's trace is made by hand."""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from bench import gpu_time, profile
from bench.gpu_time import Event, GpuTime, KindTime

from jaxsft.errors import ConfigError


def test_a_loop_is_not_charged_for_its_body():
    """loop 0 to 100 holds a (10 to 40) with b (20 to 25) in it, and a again; c comes after."""
    ms = 1e6
    events = [
        ("a", 50 * ms, 20 * ms),
        ("loop", 0, 100 * ms),
        ("b", 20 * ms, 5 * ms),
        ("a", 10 * ms, 30 * ms),
        ("c", 100 * ms, 7 * ms),
    ]
    own = [(name, round(seconds * 1e3)) for name, seconds in profile.own_seconds(events)]
    assert own == [("loop", 50), ("a", 25), ("b", 5), ("a", 20), ("c", 7)]


def test_the_costliest_operation_of_a_trace_is_the_product(tmp_path):
    """A product of 700 x 700 against a sine of one row."""

    def work(x):
        return jnp.sin(x[0]) + (x @ x)[1]

    step = jax.jit(work)
    x = jnp.ones((700, 700))
    text = step.lower(x).compile().as_text()
    step(x).block_until_ready()
    file = profile.trace(tmp_path, lambda: [step(x).block_until_ready() for _ in range(3)])
    recorded = profile.read(file)
    assert profile.time_of_gpus(recorded, 3) is None
    found = profile.costliest(recorded, text)
    assert "dot_general" in found[0].origin and found[0].count == 3 and found[0].share > 0.5
    assert sum(one.share for one in found) == pytest.approx(1)
    assert found[0].name in profile.table(found).splitlines()[1]


def test_a_profiler_that_leaves_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.profiler, "trace", lambda path: contextlib.nullcontext())
    with pytest.raises(ConfigError, match=f"--profile={tmp_path}: the profiler left no trace"):
        profile.trace(tmp_path, lambda: None)


CUDNN = "void cudnn::fusion::dot_do_o<true, (Kind)64, f(int)>(void const*, int)"
TEXT = """
  %custom-call.5 = bf16[8,8]{1,0} custom-call(%a), metadata={op_name="jit(run)/body/BD,DF/dot"}
  %loop_add_fusion.3 = f32[8]{0} fusion(%b), kind=kLoop, metadata={op_name="jit(run)/while/add"}
  ROOT %loop_broadcast_fusion = f32[8]{0} fusion(%c), metadata={op_name="jit(run)/zeros"}
"""


def gpu_events():
    """Two steps of 10 ms; the copy runs beside the product, and 2 ms of each step are idle."""
    graph = "command_buffer_207"
    one_step = [
        ("nvjet_sm90_NNT", 0, 4, "custom-call.5"),
        ("MemcpyD2D", 3, 2, "copy.45"),
        ("loop_add_fusion_3", 5, 1, graph),
        (CUDNN, 7, 2, graph),
        ("loop_broadcast_fusion", 9, 1, graph),
    ]
    return [
        Event(name, (start + step * 10) * 1e6, ms * 1e6, op)
        for step in range(2)
        for name, start, ms, op in one_step
    ]


def test_time_of_a_gpu_by_kind_by_hand():
    """Of 2 x 10 ms 9 are busy in each: the copy's second millisecond alone is its own."""
    found = gpu_time.of_step([gpu_events()], 2)
    assert found == GpuTime(
        10.0,
        9.0,
        1.0,
        (
            KindTime("matrix products", 4.0, 0.4, 1.0),
            KindTime("copies", 2.0, 0.2, 1.0),
            KindTime("attention", 2.0, 0.2, 1.0),
            KindTime("elementwise, reductions", 1.0, 0.1, 1.0),
            KindTime("memsets", 1.0, 0.1, 1.0),
        ),
    )
    assert gpu_time.of_step([gpu_events(), gpu_events()], 2) == found  # the mean of two GPUs
    assert "10.0 ms of the GPU: 9.0 ms busy, 1.0 ms idle (10.0%)" in gpu_time.table(found)


def test_kernels_are_told_by_the_instruction_they_are_of():
    recorded = profile.Recorded([gpu_events()], [])
    rows = {row.name: row for row in profile.costliest(recorded, TEXT)}
    assert {name: row.origin for name, row in rows.items()} == {
        "nvjet_sm90_NNT": "jit(run)/body/BD,DF/dot",
        "MemcpyD2D": "copy",  # which the text doesn't tell of
        "loop_add_fusion_3": "jit(run)/while/add",
        "cudnn::fusion::dot_do_o<true, (Kind)64, f(int)>": "",
        "loop_broadcast_fusion": "jit(run)/zeros",
    }
    told = Event("MemcpyD2D", 0, 1, "copy.9", "jit(run)/while/body/checkpoint/dynamic_slice")
    assert gpu_time.origin_of(told, {}) == "while/body/checkpoint/dynamic_slice"
    assert rows["nvjet_sm90_NNT"].seconds == 0.008 and rows["MemcpyD2D"].count == 2
    assert rows["MemcpyD2D"].share == pytest.approx(0.2)  # its overlap with the product included


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop", "attention"),
        ("void cudnn::fusion::simple_memset<float>(void*, float)", "attention"),
        ("gemm_fusion_dot_4", "matrix products"),
        ("Memset 3", "memsets"),
        ("loop_broadcast_fusion_29", "memsets"),
        ("loop_broadcast_compare_fusion", "elementwise, reductions"),
        ("memcpy32_post", "copies"),
        ("loop_dynamic_update_slice_fusion_17", "copies"),
        ("loop_dynamic_slice_add_fusion", "elementwise, reductions"),
        ("wrapped_concatenate_1", "copies"),
        ("ncclDevKernel_AllReduce_Sum_f32", "communication"),
        ("set_case_condition", "other"),
    ],
)
def test_kind_of_a_kernel(kernel, kind):
    assert gpu_time.kind_of(kernel) == kind


def test_short_names_of_kernels():
    assert gpu_time.short("void f<(int)3, g(int)>((anonymous namespace)::T*)") == (
        "f<(int)3, g(int)>"
    )
    assert gpu_time.short("(anonymous namespace)::k(int)") == "(anonymous namespace)::k"
    assert gpu_time.short("k" * 90) == "k" * 77 + "..."
