"""Blocked attention: equal to the reference for all lengths, in memory that grows with them."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.attention import attend as attention
from jaxsft.kernels.attention import blocked as attention_blocked
from jaxsft.kernels.attention import blocks, full
from tests.kernels.attention import attention_cases as cases

blocked = attention_blocked.attend


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention_blocked, "_MAX_BLOCK_SIZE", 16)


@pytest.mark.parametrize("length", [1, 13, 16, 61, 64])
def test_equals_the_reference_for_any_length(small_blocks, length):
    cases.assert_equals_reference(blocked, cases.packed(length=length))


@pytest.mark.parametrize(
    "options",
    [
        {"window": 1},
        {"window": jnp.int32(20), "scale": 0.3},
        {"soft_cap": 3.0},
        {"with_sinks": True},
        {"window": 9, "soft_cap": 2.0, "with_sinks": True},
    ],
    ids=lambda options: " ".join(options),
)
def test_equals_the_reference_with_options(small_blocks, options):
    cases.assert_equals_reference(blocked, cases.packed(length=61), **options)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_equals_the_reference_in_bfloat16(small_blocks, kv_heads):
    case = cases.packed(length=64, kv_heads=kv_heads, dtype="bfloat16")
    cases.assert_equals_reference(blocked, case, allowed=2e-2, with_sinks=True)


@pytest.mark.parametrize(
    "sizes", [config.Mesh(fsdp=2, context=2, tensor=2), config.Mesh(fsdp=1, context=2, tensor=4)]
)
def test_equals_the_reference_over_a_mesh(small_blocks, sizes):
    run = functools.partial(attention.attend, back_end="blocked")
    with jax.set_mesh(mesh.make_mesh(sizes)):
        cases.assert_equals_reference(run, cases.packed(length=64), window=20, with_sinks=True)


def test_a_block_that_is_skipped_wrongly_is_seen(small_blocks, monkeypatch):
    sound = blocks.needed

    def skips_one(*args):
        return sound(*args).at[2, 1].set(False)

    monkeypatch.setattr(blocks, "needed", skips_one)
    with pytest.raises(AssertionError, match="out differs"):
        cases.assert_equals_reference(blocked, cases.packed(length=64))


def test_memory_grows_with_the_length_and_not_with_its_square():
    def temporaries(attend, length):
        case = jax.eval_shape(lambda: cases.packed(length=length).arrays)
        segments = jax.ShapeDtypeStruct((2, length), jnp.int32)

        def loss(arrays, segments):
            return attend(arrays["q"], arrays["k"], arrays["v"], segments, segments).sum()

        compiled = jax.jit(jax.grad(loss)).lower(case, segments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporaries(blocked, 2048), temporaries(blocked, 4096)
    assert long < 2.1 * short
    assert long < temporaries(full.attend, 4096) / 20


def test_remat_can_keep_what_the_backward_pass_needs(small_blocks):
    """With the output and log-sum-exp kept by name, the forward loop isn't run again."""
    case = cases.packed(length=64)

    def loops(policy):
        def loss(arrays):
            segments = (case.segments_BT, case.segments_BT)
            return blocked(arrays["q"], arrays["k"], arrays["v"], *segments).sum()

        gradient = jax.grad(jax.checkpoint(loss, policy=policy))
        return str(jax.make_jaxpr(gradient)(case.arrays)).count(" while[")

    by_name = jax.checkpoint_policies.save_only_these_names(blocks.RESIDUAL_NAME)
    assert loops(by_name) == 2 and loops(None) == 3
