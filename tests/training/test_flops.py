"""Counted operations against hand counts."""

import dataclasses
import typing

import numpy as np
import pytest

from jaxsft.config import Model
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.model import moe_settings, settings
from jaxsft.model.remat import KEPT, OFFLOADED
from jaxsft.training.flops import recomputed_flops, row_cost, training_flops

LLAMA_8B = settings.DecoderSettings(
    vocab_size=128256,
    num_layers=32,
    embed_dim=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=14336,
    norm_eps=1e-5,
    rope=settings.Rope(theta=5e5),
    tied_embeddings=False,
    max_positions=8192,
)


def counts(lengths, windows=(None,)):
    return BatchCounts.of_segments(np.asarray(lengths), 8192, windows)


def test_flops_of_a_full_row_equal_the_published_count():
    """Llama-3.1-8B at 8,192 causal tokens: 51.47 GFLOP a token (notes on published MFUs)."""
    full = counts([8192])
    assert training_flops(LLAMA_8B, full, 8192) / 8192 == pytest.approx(51.47e9, rel=1e-3)


TINY = settings.DecoderSettings(
    vocab_size=9,
    num_padding=2,
    num_layers=1,
    embed_dim=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=3,
    mlp_dim=5,
    norm_eps=1e-5,
    rope=settings.Rope(theta=1e4),
    tied_embeddings=True,
    max_positions=64,
)
# q 2x2x3, o 2x3x2, k and v 2x1x3 each, gate up down 2x5 each: 12 + 12 + 12 + 30 = 66 weights;
# 7 tokens can be predicted from 2 dimensions: 14. Segments of 1 and 2 tokens: 1 + 3 pairs, each
# 12 x heads x head_dim.
BODY, HEAD, PAIRS = 66, 14, 4 * 12 * 2 * 3


def test_flops_by_hand():
    assert training_flops(TINY, counts([1, 2]), 2) == 6 * BODY * 3 + 6 * HEAD * 2 + PAIRS


def test_a_row_costs_what_training_on_its_slots_targets_and_pairs_needs():
    kinds = tuple(settings.LayerKind(window=w, rope=LLAMA_8B.rope) for w in (2, None))
    both = dataclasses.replace(TINY, num_layers=2, layer_kinds=kinds)
    held = dataclasses.replace(counts([1, 4], (None, 2)), tokens=9)  # a row of 9: 4 are padding
    (found,) = row_cost(both).of_rows(9, [np.array([1, 4])], [3])
    assert found == training_flops(both, held, 3)


def test_windows_and_plain_mlps_cost_less():
    """Of two layers one sees 4 tokens; the other model has two matrices in its MLP, not three."""
    kinds = tuple(settings.LayerKind(window=w, rope=LLAMA_8B.rope) for w in (4, None))
    two = dataclasses.replace(LLAMA_8B, num_layers=2)
    mixed, plain = (
        dataclasses.replace(two, layer_kinds=kinds),
        dataclasses.replace(two, mlp_gated=False),
    )
    long, short = counts([100], (None, 4)), counts([3], (None, 4))
    saved = training_flops(two, long, 0) - training_flops(mixed, long, 0)
    assert saved == 12 * 32 * 128 * (5050 - (1 + 2 + 3 + 97 * 4))
    assert training_flops(two, short, 0) == training_flops(mixed, short, 0)
    saved = training_flops(two, long, 0) - training_flops(plain, long, 0)
    assert saved == 6 * 2 * 4096 * 14336 * 100


def test_packing_shortens_attention():
    packed, whole = counts([4096, 4096]), counts([8192])
    saved = training_flops(LLAMA_8B, whole, 0) - training_flops(LLAMA_8B, packed, 0)
    assert saved == 12 * 32 * 32 * 128 * 4096 * 4096


def test_full_remat_does_the_forward_pass_again_but_for_its_last_product():
    """Of the 66 weights `down` has 10; forward is 2 per weight and token, 4 per pair."""
    assert recomputed_flops(TINY, counts([1, 2]), "full") == 2 * (BODY - 10) * 3 + PAIRS // 3
    assert recomputed_flops(TINY, counts([1, 2]), "none") == 0


def test_experts_are_recomputed_as_far_as_a_token_uses_them():
    """2 of 4 experts: gate and up 2 x 2 x 7 each, router 2 x 4; q, o, k, v as before; no pairs."""
    moe = moe_settings.MoeSettings(
        num_experts=4, experts_per_token=2, expert_mlp_dim=7, normalised_shares=True
    )
    model = dataclasses.replace(TINY, moe=moe)
    none = counts([])
    one = dataclasses.replace(none, tokens=1)
    assert recomputed_flops(model, one, "full") == 2 * (36 + 2 * 2 * 2 * 7 + 8)
    assert training_flops(model, one, 0) == 6 * (36 + 2 * 3 * 2 * 7 + 8)


def test_every_policy_says_what_it_keeps():
    assert {"auto", OFFLOADED, *KEPT} == set(typing.get_args(typing.get_type_hints(Model)["remat"]))
