"""Blocked attention: equal to the reference for all lengths, in memory that grows with them."""

import jax
import jax.numpy as jnp
import pytest

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.kernels.attention import attend as attention
from jaxsft.kernels.attention import blocked as attention_blocked
from jaxsft.kernels.attention import blocks, full
from jaxsft.kernels.attention.form import KeysAndValues, Visibility
from tests.kernels.attention import attention_cases as cases

blocked = attention_blocked.attend


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(attention_blocked, "_MAX_BLOCK_SIZE", 16)


@pytest.mark.parametrize("length", [1, 13, 16, 61, 64])
def test_equals_the_reference_for_any_length(small_blocks, length):
    cases.assert_equals_reference(blocked, cases.packed(length=length))


def test_blocks_are_alike_and_as_few_as_can_be():
    most = attention_blocked._MAX_BLOCK_SIZE
    for length in (1, most - 1, most, most + 1, 3 * most + 1, 8 * most):
        size, fewest = attention_blocked._block_size(length), -(-length // most)
        assert size <= most and 0 <= fewest * size - length < fewest


@pytest.mark.parametrize(
    ("static", "window"),
    [
        ({"windows": (1,)}, None),
        ({"windows": (20,), "scale": 0.3}, jnp.int32(20)),
        ({"soft_cap": 3.0}, None),
        ({"sinks": True}, None),
        ({"windows": (9,), "soft_cap": 2.0, "sinks": True}, None),
    ],
)
def test_equals_the_reference_with_options(small_blocks, static, window):
    cases.assert_equals_reference(blocked, cases.packed(length=61), cases.form(**static), window)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_equals_the_reference_in_bfloat16(small_blocks, kv_heads):
    case = cases.packed(length=64, kv_heads=kv_heads, dtype="bfloat16")
    cases.assert_equals_reference(blocked, case, cases.form(sinks=True), allowed=2e-2)


@pytest.mark.parametrize(
    "sizes", [config.Mesh(fsdp=2, context=2, tensor=2), config.Mesh(fsdp=1, context=2, tensor=4)]
)
def test_equals_the_reference_over_a_mesh(small_blocks, sizes):
    form = cases.form(back_end="blocked", windows=(20,), sinks=True)
    with jax.set_mesh(mesh.make_mesh(sizes)):
        cases.assert_equals_reference(attention.attend, cases.packed(length=64, heads=8), form)


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
            kv = KeysAndValues(arrays["k"], arrays["v"])
            return attend(arrays["q"], kv, Visibility(segments, segments), cases.form()).sum()

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
            kv = KeysAndValues(arrays["k"], arrays["v"])
            visibility = Visibility(case.segments_BT, case.segments_BT)
            return blocked(arrays["q"], kv, visibility, cases.form()).sum()

        gradient = jax.grad(jax.checkpoint(loss, policy=policy))
        return str(jax.make_jaxpr(gradient)(case.arrays)).count(" while[")

    by_name = jax.checkpoint_policies.save_only_these_names(blocks.RESIDUAL_NAME)
    assert loops(by_name) == 2 and loops(None) == 3
