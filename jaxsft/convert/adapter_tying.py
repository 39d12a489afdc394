"""Embedding and head of a tied base under an adapter. No jax here."""

import dataclasses

from jaxsft.convert.adapter_config import AdapterConfig
from jaxsft.convert.adapter_parts import Made


def resolve(embedding: Made, head: Made, config: AdapterConfig) -> tuple[Made, Made]:
    """What the two become, which begin as one.

    A weight that is no copy of modules_to_save is loaded into what both share, a factor acts on its
    own module only, and ensure_weight_tying makes one of two copies or of two pairs of factors.
    The head's tensors are loaded last.

    Source: measured with peft 0.21.2 and transformers 5.24, each case on a tied Llama.
    """
    both = (head, embedding)
    shared = _first(made.weight for made in both if config.ties_kept or not made.whole)
    if config.ties_factors:
        donor = next((made for made in both if made.a is not None), head)
        both = tuple(dataclasses.replace(made, a=donor.a, b=donor.b) for made in both)
    head, embedding = (
        made
        if made.whole and not config.ties_kept
        else dataclasses.replace(made, weight=shared, whole=False)
        for made in both
    )
    return embedding, head


def _first(names) -> str | None:
    return next((name for name in names if name is not None), None)
