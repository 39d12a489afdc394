"""What a layer keeps of its forward pass for the backward pass; the rest is computed again.

A name is given to a tensor by `jax.ad_checkpoint.checkpoint_name` where it is made; which names
belong to a part is said by the kind of attention and by the MLP.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name


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
# As "full", with the layers' inputs in the memory of the host, from where each comes back in time.
OFFLOADED = "offload"
_INPUT = "layer_input"


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
    kept = KEPT["full" if policy == OFFLOADED else policy]
    return frozenset() if kept is None else frozenset(Part) - {*kept, Part.MLP_OUT}


def remat(
    layer: Callable[..., Any], policy: str, saved: Mapping[Part, tuple[str, ...]]
) -> Callable[..., Any]:
    """The scanned layer, keeping what the policy says.

    Args:
        layer: of what the layer before gave, first of a tuple, and what is the layer's own.
        saved: the names of each part's results.
    """
    if policy == OFFLOADED:
        return _offloading(layer)
    kept = KEPT[policy]
    if kept is None:
        return layer
    found = (name for part in kept for name in saved.get(part, ()))
    names = jax.checkpoint_policies.save_only_these_names(*found)
    # A loop's body is compiled by itself, so nothing outside it can undo the recomputation.
    return jax.checkpoint(layer, prevent_cse=False, policy=names)


def _offloading(layer: Callable[..., Any]) -> Callable[..., Any]:
    def named(carry: tuple[jax.Array, Any], inputs: Any) -> Any:
        return layer((checkpoint_name(carry[0], _INPUT), *carry[1:]), inputs)

    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    )
    return jax.checkpoint(named, prevent_cse=False, policy=policy)
