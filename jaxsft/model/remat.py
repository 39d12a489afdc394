"""What a layer keeps of its forward pass for the backward pass; the rest is computed again.

A name is given to a tensor by `jax.ad_checkpoint.checkpoint_name` where it is made; which names
belong to a part is said by the kind of attention and by the MLP.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


class Part(enum.Enum):
    """Of a layer's forward pass, in its order."""

    MIXING_IN = enum.auto()  # what attention mixes: queries, keys, values, turned by positions
    MIXED = enum.auto()  # what it makes of them, before its output projection
    MIXING_OUT = enum.auto()  # that projection
    MLP_IN = enum.auto()  # the products that the activation takes, and the router's
    MLP_OUT = enum.auto()  # the last product: no gradient needs its result


# Beside the layer's input, which is always kept. From the fastest to the smallest.
KEPT: dict[str, tuple[Part, ...] | None] = {
    "none": None,  # keeps all
    "save_projections": (Part.MIXING_IN, Part.MIXED, Part.MIXING_OUT, Part.MLP_IN),
    "save_attention": (Part.MIXING_IN, Part.MIXED),
    "save_context": (Part.MIXED,),
    "full": (),
}


def candidates(asked: str) -> Sequence[str]:
    """The policies that a run may take, the fastest first, of which each needs less memory.

    Args:
        asked: a policy, which is the only one then, or "auto": all that name what they keep.
    """
    if asked != "auto":
        return (asked,)
    return tuple(policy for policy, kept in KEPT.items() if kept is not None)


def recomputed(policy: str) -> frozenset[Part]:
    """The parts that the backward pass forms again.

    What an attention kernel forms again by itself is left out.
    """
    kept = KEPT[policy]
    return frozenset() if kept is None else frozenset(Part) - {*kept, Part.MLP_OUT}


def remat(
    layer: Callable[..., Any], policy: str, saved: Mapping[Part, tuple[str, ...]]
) -> Callable[..., Any]:
    """The scanned layer, keeping what the policy says.

    Args:
        saved: the names of each part's results.
    """
    kept = KEPT[policy]
    if kept is None:
        return layer
    found = (name for part in kept for name in saved.get(part, ()))
    names = jax.checkpoint_policies.save_only_these_names(*found)
    # A loop's body is compiled by itself, so nothing outside it can undo the recomputation.
    return jax.checkpoint(layer, prevent_cse=False, policy=names)
