"""Which layers of a decoder are alike: their parameters lie stacked, and scans run over the stacks.

E and D below: a layer with experts, one with an MLP alone.

    layers of the model   D E E E E     stacks   dense_0 [0], experts_1 [1 2 3 4]     runs  2
    layers of the model   D E D E D E   stacks   dense_0 [0 2 4], experts_1 [1 3 5]   runs  1
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxsft.model import settings

LAYERS = "layers"  # of a decoder's parameters: those of its layers


@dataclasses.dataclass(frozen=True)
class LayerStack:
    """Layers of the same parts; each parameter of theirs is one leaf, with a dimension for them."""

    layers: range
    has_experts: bool

    @property
    def name(self) -> str:
        return f"{'experts' if self.has_experts else 'dense'}_{self.layers.start}"


LayerRun = tuple[LayerStack, ...]  # which take turns: a layer of each, then the next of each


def runs(s: settings.DecoderSettings) -> tuple[LayerRun, ...]:
    """All layers in their order, in as few scans as they can be put without looking far."""
    alike, found, start = [s.has_experts(i) for i in range(s.num_layers)], [], 0
    while start < s.num_layers:
        period, turns = _turns(alike[start:])
        end = start + period * turns
        firsts = range(start, start + period)
        found.append(tuple(LayerStack(range(i, end, period), alike[i]) for i in firsts))
        start = end
    return tuple(found)


def stacks(s: settings.DecoderSettings) -> tuple[LayerStack, ...]:
    return tuple(stack for run in runs(s) for stack in run)


def path(s: settings.DecoderSettings, stack: LayerStack) -> tuple[str, ...]:
    """Where the stack's parameters are: below its name, but `layers` alone where it is the one."""
    return (LAYERS,) if len(stacks(s)) == 1 else (LAYERS, stack.name)


def part_of(s: settings.DecoderSettings, layers: Any, stack: LayerStack) -> Any:
    """What is the stack's own of a tree, or a module, that is like the parameters of all layers."""
    if len(stacks(s)) == 1:
        return layers
    return layers[stack.name] if isinstance(layers, dict) else getattr(layers, stack.name)


def _turns(alike: Sequence[bool]) -> tuple[int, int]:
    """How many layers take turns from the first one on, and how often: the most layers in all."""
    best = (1, _repeats(alike, 1))
    for period in range(2, len(alike) // 2 + 1):
        turns = _repeats(alike, period)
        if turns > 1 and period * turns > best[0] * best[1]:
            best = (period, turns)
    return best


def _repeats(alike: Sequence[bool], period: int) -> int:
    """How often the first `period` come one after the other."""
    turns = 1
    while alike[turns * period : (turns + 1) * period] == alike[:period]:
        turns += 1
    return turns
