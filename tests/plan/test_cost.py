"""What is read off compiled programs against what their matrices say, counted by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxsft.plan import cost, hlo, kernels
from jaxsft.plan.kernel_flops import Skipped

F32 = 4


@pytest.fixture(scope="module")
def mesh():
    axes = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=axes)


def compiled(function, *arguments, open_trips=1.0, **options):
    return hlo.parse(jax.jit(function, **options).lower(*arguments).compile().as_text(), open_trips)


def bytes_moved(program):
    return sum(one.bytes for one in kernels.of_program(program))


def array(*shape, sharding=None):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def test_matrix_products_in_loops_count_as_often_as_they_run():
    def twice(x, w_L):
        def body(x, w):
            inner = jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w), x)
            return inner, None

        return jax.lax.scan(body, x, w_L)[0]

    program = compiled(twice, array(16, 32), array(5, 32, 32))
    assert cost.matmul_flops(program) == 5 * 3 * 2 * 16 * 32 * 32


def test_a_loop_whose_length_the_data_decide_takes_what_the_caller_says():
    def until(x, w, n):
        return jax.lax.fori_loop(0, n, lambda _, x: jnp.tanh(x @ w), x)

    arguments = (array(16, 32), array(32, 32), jax.ShapeDtypeStruct((), jnp.int32))
    for trips in (1.0, 7.0):
        program = compiled(until, *arguments, open_trips=trips)
        assert cost.matmul_flops(program) == trips * 2 * 16 * 32 * 32


def test_batched_products_count_each_product_once():
    program = compiled(
        functools.partial(jnp.einsum, "BTKH,BSKH->BKTS"), array(2, 16, 4, 8), array(2, 24, 4, 8)
    )
    assert cost.matmul_flops(program) == 2 * 2 * 4 * 16 * 24 * 8


def test_bytes_are_those_of_the_arrays():
    program = compiled(lambda x, y: jnp.tanh(x) + y, array(1000, 10), array(1000, 10))
    assert bytes_moved(program) == 3 * 1000 * 10 * F32


def test_a_scanned_stack_is_read_once_and_not_once_a_layer():
    def run(x, w_L):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x + w), None), x, w_L)[0]

    moved = bytes_moved(compiled(run, array(1000), array(64, 1000)))
    once = 64 * 1000 * F32
    assert once < moved < 6 * once  # the stack, and the carry read and written by each layer


@pytest.mark.parametrize(
    ("put", "out", "kind", "groups", "sent"),
    [
        # Each device of a pair sends its half of x to the other one.
        (P("a", "b"), P("a", None), "all-gather", "b", 64 * 16 / 8 * F32),
        (P(None, "a"), P(None, None), "all-gather", "a", 3 * 64 * 16 / 4 * F32),
    ],
)
def test_gathered_bytes_and_the_axis_that_they_travel_over(mesh, put, out, kind, groups, sent):
    x = array(64, 16, sharding=NamedSharding(mesh, put))
    program = compiled(lambda x: x * 1.0, x, out_shardings=NamedSharding(mesh, out))
    (found,) = cost.collectives(program)
    ids = np.arange(8).reshape(4, 2)
    expected = ids if groups == "b" else ids.T
    assert (found.kind, found.count) == (kind, 1)
    assert {tuple(sorted(group)) for group in found.groups} == set(map(tuple, expected.tolist()))
    assert found.bytes == sent


def test_a_sum_over_an_axis_sends_twice_what_a_ring_needs(mesh):
    """A contraction over a split axis; in a loop, as often as it runs."""

    def run(x, w_L):
        return jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, w_L)[0]

    x = array(16, 32, sharding=NamedSharding(mesh, P(None, None)))
    w_L = array(5, 32, 32, sharding=NamedSharding(mesh, P(None, "a", None)))
    program = compiled(run, x, w_L, out_shardings=NamedSharding(mesh, P()))
    (found,) = (one for one in cost.collectives(program) if one.kind == "all-reduce")
    assert (found.count, len(found.groups[0])) == (5, 4)
    assert found.bytes == 5 * 2 * (3 / 4) * 16 * 32 * F32


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("replica_groups=mesh['x'=2,'y'=2] {'x'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['x'=2,'y'=2] {'x','y'}", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'x'}", ((0, 1), (2, 3))),
        ("source_target_pairs={{0,1},{1,0}}", ((0, 1), (1, 0))),
        ("replica_groups={}", ()),
    ],
)
def test_every_spelling_of_device_groups(text, groups):
    assert cost.device_groups(text + ", more") == groups


def test_padding_and_gaps_of_a_convolution_cost_nothing():
    """How the TPU spells x_TD w_DNH: N = 8 is a window over an input of one."""
    text = """
ENTRY %main (a: f32[16,4,1], b: f32[4,8,6]) -> f32[16,8,6] {
  %a = f32[16,4,1]{2,1,0} parameter(0)
  %b = f32[4,8,6]{2,1,0} parameter(1)
  ROOT %c = f32[16,8,6]{2,1,0} convolution(%a, %b), WINDOW, dim_labels=bf0_i0o->b0f
}
""".replace("WINDOW", "window={size=8 pad=7_7 rhs_reversal=1}")
    assert cost.matmul_flops(hlo.parse(text)) == 2 * 16 * 4 * 8 * 6


@pytest.mark.parametrize(("target", "flops"), [("__cublas$gemm", 2 * 3 * 16 * 4 * 6), ("other", 0)])
def test_a_librarys_product_counts_and_other_calls_do_not(target, flops):
    """A name in the metadata is not the call's own."""
    text = """
ENTRY %main (a: f32[3,16,4], b: f32[3,6,4]) -> f32[3,16,6] {
  %a = f32[3,16,4]{2,1,0} parameter(0)
  %b = f32[3,6,4]{2,1,0} parameter(1)
  ROOT %c = (f32[3,16,6]{2,1,0}, s8[64]{0}) custom-call(%a, %b), TARGET, metadata={op_name="matmul"}
}
""".replace("TARGET", f'custom_call_target="{target}"')
    assert cost.matmul_flops(hlo.parse(text)) == flops


@pytest.mark.parametrize(
    ("name", "flops"), [("ragged-dot-none.3", 250), ("tgmm.1", 250), ("splash", 1000)]
)
def test_a_kernel_costs_what_it_says_and_a_grouped_one_its_used_rows(name, flops):
    text = """
ENTRY %main (a: f32[16,4], b: f32[8,4,6]) -> f32[16,6] {
  %a = f32[16,4]{1,0} parameter(0)
  %b = f32[8,4,6]{2,1,0} parameter(1)
  ROOT %NAME = f32[16,6]{1,0} custom-call(%a, %b), custom_call_target="tpu_custom_call", CONFIG
}
""".replace("NAME", name)
    config = 'backend_config={"cost_estimate":{"flops":"1000","transcendentals":"0"}}'
    program = hlo.parse(text.replace("CONFIG", config))
    assert cost.matmul_flops(program, Skipped(used_rows=0.25)) == flops


@pytest.mark.parametrize(
    ("name", "w", "out"),
    [
        ("experts_rows", "8,4,6", "16,6"),
        ("experts_rows", "8,6,4", "16,6"),  # transposed
        ("experts_weights", "16,6", "8,4,6"),
    ],
)
def test_the_experts_kernels_for_gpus_cost_their_used_rows(name, w, out):
    text = """
ENTRY %main (t: s32[2,16,3], a: f32[16,4], b: f32[W]) -> f32[OUT] {
  %t = s32[2,16,3]{2,1,0} parameter(0)
  %a = f32[16,4]{1,0} parameter(1)
  %b = f32[W] parameter(2)
  ROOT %c = f32[OUT] custom-call(%t, %a, %b), custom_call_target="__gpu$xla.gpu.triton", CONFIG
}
""".replace("W]", w + "]").replace("OUT", out)
    config = f'backend_config={{grid_x = 16 : i32, ir = "ML", name = "{name}", num_stages = 3}}'
    program = hlo.parse(text.replace("CONFIG", config))
    assert cost.matmul_flops(program, Skipped(used_rows=0.25)) == 2 * 16 * 4 * 6 / 4


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("splash_mha_fwd_segmented_residuals.2", 2),
        ("splash_mha_dq_segmented_no_residuals.1", 3),
        ("splash_mha_dkv_segmented_no_residuals.1", 4),
        ("another_kernel.1", 0),
    ],
)
def test_attention_on_a_tpu_costs_the_products_of_the_blocks_that_it_needs(name, products):
    """8 heads of 16 for 512 queries and 1,024 keys of 2 heads; three of eight blocks are needed."""
    text = """
ENTRY %main (m: s32[1,2,4], q: bf16[8,512,16], k: bf16[2,1024,16]) -> bf16[8,512,16] {
  %m = s32[1,2,4]{2,1,0} parameter(0)
  %q = bf16[8,512,16]{2,1,0} parameter(1)
  %k = bf16[2,1024,16]{2,1,0} parameter(2)
  ROOT %NAME = (f32[8]{0}, bf16[8,512,16]{2,1,0}) custom-call(%m, %m, %q, %k, %k), TARGET
}
""".replace("NAME", name)
    found = cost.matmul_flops(hlo.parse(text), Skipped(needed_pairs=3 / 8))
    assert found == products * 2 * 8 * 512 * 1024 * 16 * 3 / 8


@pytest.mark.parametrize(("name", "products"), [("Softmax", 2), ("SoftmaxBackward", 5)])
def test_attention_on_a_gpu_costs_the_products_of_the_blocks_that_it_needs(name, products):
    """Two rows of 512, 8 heads of 16; three of eight blocks are needed."""
    text = """
ENTRY %main (q: bf16[2,512,8,16], k: bf16[2,512,4,16]) -> bf16[2,512,8,16] {
  %q = bf16[2,512,8,16]{3,2,1,0} parameter(0)
  %k = bf16[2,512,4,16]{3,2,1,0} parameter(1)
  ROOT %c = (bf16[2,8,512,16]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k), TARGET
}
""".replace("TARGET", f'custom_call_target="__cudnn$fmha{name}"')
    found = cost.matmul_flops(hlo.parse(text), Skipped(needed_pairs=3 / 8))
    assert found == products * 2 * 2 * 8 * 512 * 512 * 16 * 3 / 8


@pytest.mark.parametrize(
    ("kernel", "products"),
    [
        ("attention_forward", 2),
        ("attention_keys_gradient", 4),
        ("attention_queries_gradient", 3),
        ("another_kernel", 0),
    ],
)
def test_our_attention_on_a_gpu_costs_the_products_of_the_blocks_that_it_needs(kernel, products):
    """Two rows of 512, 8 heads of 16; three of eight blocks are needed."""
    text = """
ENTRY %main (v: s32[2,8,4], q: bf16[2,512,8,16], k: bf16[2,512,4,16]) -> bf16[2,512,8,16] {
  %v = s32[2,8,4]{2,1,0} parameter(0)
  %q = bf16[2,512,8,16]{3,2,1,0} parameter(1)
  %k = bf16[2,512,4,16]{3,2,1,0} parameter(2)
  ROOT %c = bf16[2,512,8,16]{3,2,1,0} custom-call(%v, %q, %k, /*index=5*/%k), TARGET, CONFIG
}
""".replace("TARGET", 'custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(f)/name"}')
    config = (
        f'backend_config={{grid_x = 8 : i32, ir = "\\EF(\\22", name = "{kernel}", num_stages = 3}}'
    )
    program = hlo.parse(text.replace("CONFIG", config))
    found = cost.matmul_flops(program, Skipped(needed_pairs=3 / 8))
    assert found == products * 2 * 2 * 8 * 512 * 512 * 16 * 3 / 8


STACK, LAYER = 10 * 4 * 8 * F32, 4 * 8 * F32


def test_a_fusion_in_a_fusion_reads_and_writes_the_slices_that_it_takes():
    """One layer of a stack of ten is read, through a view, doubled and put back."""
    text = """
%inner (p: f32[10,4,8], i: s32[]) -> f32[10,4,8] {
  %p = f32[10,4,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %view = f32[10,32]{1,0} bitcast(%p)
  %row = f32[1,32]{1,0} dynamic-slice(%view, %i, %z), dynamic_slice_sizes={1,32}
  %sum = f32[1,32]{1,0} add(%row, %row)
  %new = f32[1,4,8]{2,1,0} bitcast(%sum)
  ROOT %put = f32[10,4,8]{2,1,0} dynamic-update-slice(%p, %new, %i, %z, %z)
}

%outer (p.1: f32[10,4,8], i.1: s32[]) -> f32[10,4,8] {
  %p.1 = f32[10,4,8]{2,1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  %nested = f32[10,4,8]{2,1,0} fusion(%p.1, %i.1), kind=kLoop, calls=%inner
  ROOT %view.1 = f32[10,4,8]{2,1,0} bitcast(%nested)
}

ENTRY %main (stack: f32[10,4,8], at: s32[]) -> f32[10,4,8] {
  %stack = f32[10,4,8]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %out = f32[10,4,8]{2,1,0} fusion(%stack, %at), kind=kLoop, calls=%outer
}
"""
    assert bytes_moved(hlo.parse(text)) == 2 * LAYER


def test_a_fusion_of_several_results_writes_the_slice_of_one_and_the_whole_of_the_other():
    text = """
%both (p: f32[10,4,8], x: f32[1,4,8], i: s32[]) -> (f32[10,4,8], f32[1,4,8]) {
  %p = f32[10,4,8]{2,1,0} parameter(0)
  %x = f32[1,4,8]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %z = s32[] constant(0)
  %put = f32[10,4,8]{2,1,0} dynamic-update-slice(%p, %x, %i, %z, %z)
  %neg = f32[1,4,8]{2,1,0} negate(%x)
  ROOT %two = (f32[10,4,8]{2,1,0}, f32[1,4,8]{2,1,0}) tuple(%put, %neg)
}

ENTRY %main (stack: f32[10,4,8], new: f32[1,4,8], at: s32[]) -> (f32[10,4,8], f32[1,4,8]) {
  %stack = f32[10,4,8]{2,1,0} parameter(0)
  %new = f32[1,4,8]{2,1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %out = (f32[10,4,8]{2,1,0}, f32[1,4,8]{2,1,0}) fusion(%stack, %new, %at), calls=%both
}
"""
    assert bytes_moved(hlo.parse(text)) == 3 * LAYER


def test_a_fusion_that_runs_beside_others_moves_what_it_would_move_alone():
    """As XLA writes for a GPU: its operands stand in its result."""
    text = """
%slice (p: f32[10,4,8], i: s32[]) -> f32[1,4,8] {
  %p = f32[10,4,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  ROOT %row = f32[1,4,8]{2,1,0} dynamic-slice(%p, %i, %z, %z), dynamic_slice_sizes={1,4,8}
}

ENTRY %main (s: f32[10,4,8], j: s32[]) -> f32[1,4,8] {
  %s = f32[10,4,8]{2,1,0} parameter(0)
  %j = s32[] parameter(1)
  %begun = ((f32[10,4,8]{2,1,0}, s32[]), f32[1,4,8]{2,1,0}, u32[]) fusion-start(%s, %j), CALLS
  ROOT %ended = f32[1,4,8]{2,1,0} fusion-done(%begun)
}
""".replace("CALLS", "kind=kLoop, calls=%slice")
    assert bytes_moved(hlo.parse(text)) == 2 * LAYER


def test_what_a_fusion_reads_whole_and_in_slices_is_read_whole():
    text = """
%mix (p: f32[10,4,8], i: s32[]) -> f32[4,8] {
  %p = f32[10,4,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %zero = f32[] constant(0)
  %row = f32[1,4,8]{2,1,0} dynamic-slice(%p, %i, %z, %z), dynamic_slice_sizes={1,4,8}
  %all = f32[4,8]{1,0} reduce(%p, %zero), dimensions={0}, to_apply=%add
  %one = f32[4,8]{1,0} bitcast(%row)
  ROOT %sum = f32[4,8]{1,0} add(%one, %all)
}

ENTRY %main (stack: f32[10,4,8], at: s32[]) -> f32[4,8] {
  %stack = f32[10,4,8]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %out = f32[4,8]{1,0} fusion(%stack, %at), kind=kLoop, calls=%mix
}
"""
    assert bytes_moved(hlo.parse(text)) == STACK + LAYER


def test_a_slice_of_a_stack_that_is_seen_in_other_tiles_is_what_is_read():
    """As XLA writes for a TPU, of arrays of bytes."""
    text = """
%tiled (input: f32[10,4,8]) -> f32[10,4,8] {
  %input = f32[10,4,8]{2,1,0} parameter(0)
  ROOT %copy = f32[10,4,8]{2,1,0} copy(%input)
}

%slice (p: f32[10,4,8], i: s32[]) -> f32[1,4,8] {
  %p = f32[10,4,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %seen = f32[10,4,8]{2,1,0} fusion(%p), kind=kLoop, calls=%tiled
  ROOT %row = f32[1,4,8]{2,1,0} dynamic-slice(%seen, %i, %z, %z), dynamic_slice_sizes={1,4,8}
}

ENTRY %main (stack: f32[10,4,8], at: s32[]) -> f32[1,4,8] {
  %stack = f32[10,4,8]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %out = f32[1,4,8]{2,1,0} fusion(%stack, %at), kind=kLoop, calls=%slice
}
"""
    assert bytes_moved(hlo.parse(text)) == 2 * LAYER
