"""Counted operations against hand counts, and the metrics file against a killed writer."""

import dataclasses
import json

import pytest

from jaxsft.metrics import BatchCounts, JsonLines, finite, training_flops
from jaxsft.model import settings

LLAMA_8B = settings.Decoder(
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


def counts(lengths):
    return BatchCounts(
        tokens=sum(lengths),
        slots=8192,
        attention_pairs=sum(n * (n + 1) // 2 for n in lengths),
        examples=len(lengths),
    )


def test_flops_of_a_full_row_equal_the_published_count():
    """Llama-3.1-8B at 8,192 causal tokens: 51.47 GFLOP a token (notes on published MFUs)."""
    full = counts([8192])
    assert training_flops(LLAMA_8B, full, 8192) / 8192 == pytest.approx(51.47e9, rel=1e-3)


def test_flops_by_hand():
    tiny = settings.Decoder(
        vocab_size=7,
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
    # q 2x2x3, o 2x3x2, k and v 2x1x3 each, gate up down 2x5 each: 12 + 12 + 12 + 30 = 66 weights.
    # Segments of 1 and 2 tokens: 1 + 3 pairs; 12 x heads x head_dim each: 4 x 72.
    assert training_flops(tiny, counts([1, 2]), 2) == 6 * 66 * 3 + 6 * 14 * 2 + 4 * 72


def test_windows_and_plain_mlps_cost_less():
    """Of two layers one sees 4 tokens; the other model has two matrices in its MLP, not three."""
    kinds = tuple(settings.LayerKind(window=w, rope=LLAMA_8B.rope) for w in (4, None))
    two = dataclasses.replace(LLAMA_8B, num_layers=2)
    mixed, plain = (
        dataclasses.replace(two, layer_kinds=kinds),
        dataclasses.replace(two, mlp_gated=False),
    )
    long, short = counts([100]), counts([3])
    saved = training_flops(two, long, 0) - training_flops(mixed, long, 0)
    assert saved == 12 * 32 * 128 * (5050 - 400)
    assert training_flops(two, short, 0) == training_flops(mixed, short, 0)
    saved = training_flops(two, long, 0) - training_flops(plain, long, 0)
    assert saved == 6 * 2 * 4096 * 14336 * 100


def test_packing_shortens_attention():
    packed, whole = counts([4096, 4096]), counts([8192])
    saved = training_flops(LLAMA_8B, whole, 0) - training_flops(LLAMA_8B, packed, 0)
    assert saved == 12 * 32 * 32 * 128 * 4096 * 4096


def test_counts_add_up():
    total = counts([3, 4]) + counts([5])
    assert dataclasses.astuple(total) == (12, 16384, 6 + 10 + 15, 3)


def test_lines_are_kept_and_a_half_written_one_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in (1, 2, 3):
        lines.append({"step": step})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in lines.read()] == [1, 2, 3]
    lines.keep(lambda line: line["step"] <= 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", writes=False)
    lines.append({"step": 1})
    lines.keep(lambda line: True)
    assert lines.read() == [] and not list(tmp_path.iterdir())


def test_nan_is_null_not_a_number():
    assert finite(float("nan")) is None and finite(float("inf")) is None and finite(2) == 2.0
