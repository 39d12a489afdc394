"""What a layer keeps of its forward pass for the backward pass; the rest is computed again.

A name is given to a tensor by `jax.ad_checkpoint.checkpoint_name` where it is made: q, k, v (turned
by their positions), context (attention's output, before its projection), attention_out, gate, up.
"""

from collections.abc import Callable
from typing import Any

import jax

# Beside the layer's input, which is always kept. From the fastest to the smallest.
KEPT: dict[str, tuple[str, ...] | None] = {
    "none": None,  # keeps all
    "save_projections": ("q", "k", "v", "context", "attention_out", "gate", "up"),
    "save_attention": ("q", "k", "v", "context"),
    "save_context": ("context",),
    "full": (),
}


def remat(layer: Callable[..., Any], policy: str) -> Callable[..., Any]:
    """The scanned layer, keeping what the policy says."""
    kept = KEPT[policy]
    if kept is None:
        return layer
    names = jax.checkpoint_policies.save_only_these_names(*kept)
    # A loop's body is compiled by itself, so nothing outside it can undo the recomputation.
    return jax.checkpoint(layer, prevent_cse=False, policy=names)
