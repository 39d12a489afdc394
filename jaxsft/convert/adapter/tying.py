"""Embedding and head of a tied base under an adapter. No jax here."""

import dataclasses
from collections.abc import Iterable

from jaxsft.convert.adapter.config import AdapterConfig
from jaxsft.convert.adapter.tensor_roles import Made


def with_adapter(embedding: Made, head: Made, config: AdapterConfig) -> tuple[Made, Made]:
    """Embedding and head, which begin as one, as the adapter leaves them.

    A weight that is no copy of modules_to_save is loaded into what both share, a factor acts on its
    own module only, and ensure_weight_tying makes one of two copies or of two pairs of factors.
    The head's tensors are loaded last.

    Source: measured with peft 0.21.2 and transformers 5.24, each case on a tied Llama.
    """
    both = (head, embedding)
    if config.ties_kept:
        shared = _first(made.weight for made in both)
    else:
        shared = _first(made.original if made.whole else made.weight for made in both)
    donor = embedding if head.a is None else head

    def settled(made: Made) -> Made:
        if config.ties_factors:
            made = dataclasses.replace(made, a=donor.a, b=donor.b)
        if config.ties_kept or not made.whole:
            made = dataclasses.replace(made, weight=shared, whole=False)
        return dataclasses.replace(made, original=None)

    return settled(embedding), settled(head)


def _first(names: Iterable[str | None]) -> str | None:
    return next((name for name in names if name is not None), None)
