"""The sizes on which attention is timed, here and in torch, and the work in them.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import os

import numpy as np

from bench.gpu import results

SEGMENTS = (1, 4, 16)  # in a row


def sizes() -> list[tuple[int, int]]:
    """B and T of each; ATTENTION_SIZES=1x4096,4x4096 names others than all."""
    default = "1x256" if results.is_tiny() else "1x4096,4x4096,1x8192"
    chosen = os.environ.get("ATTENTION_SIZES") or default
    pairs = (size.split("x") for size in chosen.split(","))
    return [(int(B), int(T)) for B, T in pairs]


def heads() -> tuple[int, int, int]:
    """N, K and H."""
    return (4, 2, 16) if results.is_tiny() else (32, 8, 128)


def segment_ids(T: int, count: int) -> np.ndarray:
    """Of each position, from 1: `count` segments of one length."""
    return np.arange(T) * count // T + 1


def tflops(B: int, ids_T: np.ndarray, ms: float) -> float:
    """Of causal attention within the segments, forward and backward."""
    pairs = B * sum(n * (n + 1) // 2 for n in np.bincount(ids_T).tolist())
    N, _, H = heads()
    return training_flops(pairs, N, H) / ms / 1e9


def training_flops(num_pairs: int, num_heads: int, head_dim: int) -> int:
    """Of two products forward and five backward over the (query, key) pairs that see each other."""
    return 2 * 7 * num_pairs * num_heads * head_dim
