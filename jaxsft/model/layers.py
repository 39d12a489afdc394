"""Layers of a decoder: one, those of a stack in one module, and the scans that run all of them.

L: layer (stacked leaf), B: batch row, T: position, D: embed_dim.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.devices.mesh import constrain
from jaxsft.model import adapter, adapter_dropout, layer_stacks, settings
from jaxsft.model.attention.choice import kind_of
from jaxsft.model.attention.kinds import Context, LayerPlace
from jaxsft.model.gradient_slot import with_slots
from jaxsft.model.layer_stacks import LayerRun, LayerStack
from jaxsft.model.mlp import SAVED, Mlp
from jaxsft.model.moe import Moe, RouterStats
from jaxsft.model.norm import Norm
from jaxsft.model.remat import remat as rematerialised
from jaxsft.model.settings import Block


class Layer(nnx.Module):
    def __init__(self, s: settings.DecoderSettings, has_experts: bool, *, rngs: nnx.Rngs):
        self.settings, self.has_experts = s, has_experts
        self.attention = kind_of(s).module(s, rngs=rngs)
        if has_experts:
            assert s.moe is not None
            self.moe = Moe(s.moe, s.embed_dim, rngs=rngs)
        else:
            self.mlp = Mlp(s, rngs=rngs)
        if s.norms_before:
            self.attention_norm = Norm(s)
            if s.block is not Block.PARALLEL_ONE_NORM:
                self.mlp_norm = Norm(s)
        if s.norms_after:
            self.attention_out_norm, self.mlp_out_norm = Norm(s), Norm(s)

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: Any, place: LayerPlace
    ) -> tuple[jax.Array, Any, RouterStats | None]:
        s = self.settings
        in_BTD = self.attention_norm(x_BTD) if s.norms_before else x_BTD
        out_BTD, cache = self.attention(in_BTD, context, cache, place)
        if s.norms_after:
            out_BTD = self.attention_out_norm(out_BTD)
        between_BTD = x_BTD + s.residual_scale * out_BTD
        between_BTD = constrain(between_BTD, "batch", "sequence", "activation_embed")
        if s.block is not Block.PARALLEL_ONE_NORM:
            in_BTD = between_BTD if s.block is Block.SEQUENTIAL else x_BTD
            in_BTD = self.mlp_norm(in_BTD) if s.norms_before else in_BTD
        routed = None
        if self.has_experts:
            out_BTD, routed = self.moe(in_BTD, context.segments_BT)
        else:
            out_BTD = self.mlp(in_BTD)
        if s.norms_after:
            out_BTD = self.mlp_out_norm(out_BTD)
        x_BTD = between_BTD + s.residual_scale * out_BTD
        return constrain(x_BTD, "batch", "sequence", "activation_embed"), cache, routed


class Stacks(nnx.Module):
    """A Layer with stacked leaves for each stack, by the stack's name."""

    def __init__(self, s: settings.DecoderSettings, *, rngs: nnx.Rngs):
        for stack in layer_stacks.stacks(s):
            setattr(self, stack.name, _stacked(s, stack, rngs))


def make(s: settings.DecoderSettings, rngs: nnx.Rngs) -> Layer | Stacks:
    """All layers; the one stack itself where there is one."""
    first, *others = layer_stacks.stacks(s)
    return Stacks(s, rngs=rngs) if others else _stacked(s, first, rngs)


def _stacked(s: settings.DecoderSettings, stack: LayerStack, rngs: nnx.Rngs) -> Layer:
    @nnx.split_rngs(splits=len(stack.layers))
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: nnx.Rngs) -> Layer:
        return Layer(s, stack.has_experts, rngs=rngs)

    return build(rngs)


@dataclasses.dataclass(frozen=True)
class Scans:
    """All layers of a decoder, one run of like layers after the other."""

    settings: settings.DecoderSettings
    layers: Layer | Stacks
    remat: str
    unroll: int

    def __call__(
        self, x_BTD: jax.Array, context: Context, caches: Mapping[str, Any], slots: Any
    ) -> tuple[jax.Array, dict[str, Any], RouterStats | None]:
        """What the last layer gives, the caches with the new tokens, and what the routers did.

        Args:
            caches: by stack, each its kind of attention's own; empty where there is none.
            slots: where the gradients of the layers go; None: to the layers.
        """
        carry, routed = (x_BTD, dict(caches)), {}
        for run in layer_stacks.runs(self.settings):
            steps = {stack.name: self._step(stack, context) for stack in run}
            inputs = {stack.name: self._inputs(stack, slots) for stack in run}
            length = len(run[0].layers)
            unroll = min(self.unroll, length)
            carry, found = jax.lax.scan(_turn(run, steps), carry, inputs, unroll=unroll)
            routed |= found
        return *carry, _in_order(self.settings, routed)

    def _step(self, stack: LayerStack, context: Context) -> Callable[..., Any]:
        """One layer, from what goes into it and its stack's cache."""
        s = self.settings
        graphdef, _ = nnx.split(layer_stacks.part_of(s, self.layers, stack))

        def step(carry, inputs):
            params, slots, place = inputs
            params = params if slots is None else with_slots(params, slots, in_loop=True)
            layer_number = stack.layers.start + stack.layers.step * place.index
            dropout = adapter_dropout.of_layer(context.keys_BT, s.adapter_dropout, layer_number)
            layer = nnx.merge(graphdef, adapter.together(params, dropout))
            x_BTD, cache, routed = layer(carry[0], context, carry[1], place)
            return (x_BTD, cache), routed

        return rematerialised(step, self.remat, {**kind_of(s).saved, **SAVED})

    def _inputs(self, stack: LayerStack, slots: Any) -> tuple[Any, Any, LayerPlace]:
        s = self.settings
        _, state = nnx.split(layer_stacks.part_of(s, self.layers, stack))
        own = None if slots is None else layer_stacks.part_of(s, slots, stack)
        return adapter.apart(nnx.to_pure_dict(state)), own, _places(s, stack)


def _turn(run: LayerRun, steps: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """A layer of each of the run's stacks, as the body of a scan."""

    def turn(carry, inputs):
        (x_BTD, caches), routed = carry, {}
        for name in (stack.name for stack in run):
            (x_BTD, cache), found = steps[name]((x_BTD, caches.get(name)), inputs[name])
            caches = caches | ({name: cache} if name in caches else {})
            routed |= {} if found is None else {name: found}
        return (x_BTD, caches), routed

    return turn


def ropes(s: settings.DecoderSettings) -> list[settings.Rope | None]:
    """Each once."""
    return list(dict.fromkeys(kind.rope for kind in s.kinds()))


def _places(s: settings.DecoderSettings, stack: LayerStack) -> LayerPlace:
    """Of all layers of a stack; what is the same in the whole model is given once for all."""
    kinds, known = [s.kinds()[layer] for layer in stack.layers], ropes(s)
    window = rope_index = None
    if s.windows:
        widths = [kind.window or settings.WIDER_THAN_ANY_ROW for kind in kinds]
        window = jnp.asarray(widths, jnp.int32)
    if len(known) > 1:
        rope_index = jnp.asarray([known.index(kind.rope) for kind in kinds], jnp.int32)
    return LayerPlace(jnp.arange(len(kinds)), rope_index, window)


def _in_order(s: settings.DecoderSettings, routed: Mapping[str, RouterStats]) -> RouterStats | None:
    """Those of all stacks in one, layer by layer of the model; None: no layer has experts."""
    found = [stack for stack in layer_stacks.stacks(s) if stack.name in routed]
    if len(found) < 2:
        return next(iter(routed.values()), None)
    layers = [layer for stack in found for layer in stack.layers]
    order = jnp.asarray(sorted(range(len(layers)), key=lambda i: layers[i]))
    return jax.tree.map(
        lambda *parts: jnp.concatenate(parts)[order], *(routed[stack.name] for stack in found)
    )
