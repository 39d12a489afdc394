"""What of a model's work per token training leaves out, its weights being frozen, and what adapters
add to it."""

import dataclasses
import math

from jaxsft.model import settings, state, vocabulary
from jaxsft.model.adapter_plan import Adaptable, adaptable
from jaxsft.training.lora import Adapters


@dataclasses.dataclass(frozen=True)
class Untrained:
    """Weights that a token is multiplied with: of experts, those that it uses."""

    weights: float = 0.0  # frozen ones of layers
    head: float = 0.0  # that of the head, where it is frozen
    adapters: float = 0.0  # of adapters of layers


ALL_TRAINS = Untrained()


def of_run(
    s: settings.DecoderSettings, frozen: frozenset[str], adapters: Adapters | None
) -> Untrained:
    """Of a run that leaves these parameters as they are, by their dotted paths."""
    if not frozen:
        return ALL_TRAINS
    _, shapes, axes = state.abstract(s, "float32", "none")
    found = adaptable(s, shapes, axes)
    layers = {path: weight for path, weight in found.items() if weight.num_layers}
    specs = {} if adapters is None else adapters.specs
    return Untrained(
        sum(
            _used(s, weight) * math.prod(weight.inputs) * math.prod(weight.outputs)
            for path, weight in layers.items()
            if path in frozen
        ),
        s.embed_dim * s.num_tokens if _head(s) in frozen else 0.0,
        sum(
            _used(s, weight)
            * specs[path].rank
            * (math.prod(weight.inputs) + math.prod(weight.outputs))
            for path, weight in layers.items()
            if path in specs
        ),
    )


def _head(s: settings.DecoderSettings) -> str:
    return vocabulary.EMBEDDING if s.tied_embeddings else vocabulary.HEAD


def _used(s: settings.DecoderSettings, weight: Adaptable) -> float:
    """How many of a stack a token is multiplied with."""
    (layers,) = weight.num_layers
    return layers * (s.moe.experts_per_token if s.moe and weight.has_experts else 1)
