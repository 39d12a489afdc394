"""Which weights of a model get an adapter, of which rank: shapes, places and first values."""

import dataclasses
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.model import adapter, principal, settings, state
from jaxsft.model.state import Params
from jaxsft.model.vocabulary import EMBEDDING


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    rank: int
    scale: tuple[float, ...]  # of the change; one number, or one for each layer of a stack
    dora: bool = False
    pissa: bool = False  # begins with the weight's principal components


AdapterSpecs = Mapping[str, AdapterSpec]  # by the weight's dotted path
_STARTS = {adapter.A: adapter.A_START, adapter.B: adapter.B_START}


@dataclasses.dataclass(frozen=True)
class Adaptable:
    """A weight that may have an adapter; the dimensions of a product, apart."""

    stack: tuple[int, ...]  # layers, experts
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str, ...]  # logical ones, of all of them

    @property
    def has_experts(self) -> bool:
        return "expert" in self.axes

    @property
    def num_layers(self) -> tuple[int, ...]:
        """Those of a stack; () of a weight that is in no layer."""
        return self.stack[: self.axes.count("layer")]

    def adapter(self, spec: AdapterSpec) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
        """Shape and logical axes of each part of an adapter of this weight."""
        first, last = len(self.stack), len(self.stack) + len(self.inputs)
        stack, into, out = self.axes[:first], self.axes[first:last], self.axes[last:]
        layers = self.num_layers
        parts = {
            adapter.A: ((*self.stack, *self.inputs, spec.rank), (*stack, *into, "rank")),
            adapter.B: ((*self.stack, spec.rank, *self.outputs), (*stack, "rank", *out)),
            adapter.SCALE: (layers, stack[: len(layers)]),
        }
        if spec.dora:
            parts[adapter.MAGNITUDE] = ((*self.stack, *self.outputs), (*stack, *out))
        if spec.pissa:
            parts |= {adapter.A_START: parts[adapter.A], adapter.B_START: parts[adapter.B]}
        return parts


def adaptable(s: settings.DecoderSettings, shapes: Params, axes: Params) -> dict[str, Adaptable]:
    """The matrices of a model, by their paths."""
    num_inputs, found = state.num_inputs(s), {}
    flat_axes = nnx.traversals.flatten_mapping(axes)
    for path, leaf in nnx.traversals.flatten_mapping(shapes).items():
        own, sizes = tuple(flat_axes[path]), tuple(leaf.shape)
        first = sum(axis in ("layer", "expert") for axis in own)
        last = first + num_inputs.get(path, len(sizes))
        if last < len(sizes):
            found[".".join(path)] = Adaptable(
                sizes[:first], sizes[first:last], sizes[last:], axes=own
            )
    return found


def declared(
    specs: AdapterSpecs, weights: Mapping[str, Adaptable], shapes: Params, axes: Params
) -> tuple[Params, Params]:
    """The model's shapes and logical axes with those of the adapters beside them."""
    flat_shapes = nnx.traversals.flatten_mapping(shapes)
    flat_axes = nnx.traversals.flatten_mapping(axes)
    for path, spec in specs.items():
        for part, (shape, logical) in weights[path].adapter(spec).items():
            where = (*adapter_path(path), part)
            flat_shapes[where] = jax.ShapeDtypeStruct(shape, jnp.float32)
            flat_axes[where] = logical
    return (
        nnx.traversals.unflatten_mapping(flat_shapes),
        nnx.traversals.unflatten_mapping(flat_axes),
    )


def constants(specs: AdapterSpecs) -> frozenset[str]:
    """The paths of what belongs to adapters and is never trained."""
    return frozenset(
        ".".join((*adapter_path(path), part))
        for path, spec in specs.items()
        for part in (adapter.SCALE, *(_STARTS.values() if spec.pissa else ()))
    )


def first_values(
    specs: AdapterSpecs,
    weights: Mapping[str, Adaptable],
    params: Params,
    placement: Params,
    seed: int,
    starts: Params | None = None,
) -> Params:
    """The parameters with adapters that change nothing yet, made where they belong.

    A is uniform within 1 / sqrt(inputs) and B zero; of an embedding A is zero and B normal, so that
    rows alone that were looked up move. As PEFT has it; the same on any mesh.

    Args:
        params: of the model alone.
        placement: of all that `declared` has.
        starts: A and B as those of PiSSA began, of a run that goes on; None: it begins.
    """
    flat = nnx.traversals.flatten_mapping(params)
    places = nnx.traversals.flatten_mapping(placement)
    begun = nnx.traversals.flatten_mapping(starts or {})
    wanted = {
        path: {part: places[*adapter_path(path), part] for part in weights[path].adapter(spec)}
        for path, spec in specs.items()
    }
    known = {
        path: {part: begun[*adapter_path(path), start] for part, start in _STARTS.items()}
        for path, spec in specs.items()
        if spec.pissa and starts is not None
    }

    def make(bases: Params, known: Params) -> dict[str, dict[str, jax.Array]]:
        key = jax.random.key(seed)
        return {
            path: _first(path, spec, weights[path], bases.get(path), key, known.get(path))
            for path, spec in specs.items()
        }

    bases = {
        path: flat[tuple(path.split("."))]
        for path, spec in specs.items()
        if spec.dora or spec.pissa and starts is None
    }
    for path, parts in jax.jit(make, out_shardings=wanted)(bases, known).items():
        flat |= {(*adapter_path(path), part): leaf for part, leaf in parts.items()}
    return nnx.traversals.unflatten_mapping(flat)


def _first(
    path: str,
    spec: AdapterSpec,
    weight: Adaptable,
    base_x: jax.Array | None,
    key: jax.Array,
    known: Mapping[str, jax.Array] | None,
) -> dict[str, jax.Array]:
    shapes = {part: shape for part, (shape, _) in weight.adapter(spec).items()}
    scale = jnp.asarray(spec.scale, jnp.float32)
    scale = jnp.broadcast_to(scale if weight.num_layers else scale[0], shapes[adapter.SCALE])
    if known is not None:
        drawn = dict(known)
    elif spec.pissa:
        assert base_x is not None
        sizes = spec.rank, len(weight.stack), len(weight.inputs)
        drawn = dict(zip(_STARTS, principal.factors(base_x, scale, *sizes), strict=True))
    else:
        drawn = _drawn(path, weight, shapes, key)
    found: dict[str, Any] = {**drawn, adapter.SCALE: scale}
    if spec.pissa:
        found |= {start: drawn[part] for part, start in _STARTS.items()}
    if spec.dora:
        assert base_x is not None
        norms = adapter.norms
        for _ in weight.stack:
            norms = jax.vmap(norms, in_axes=(0, None))
        found[adapter.MAGNITUDE] = norms(base_x, len(weight.inputs))
    return found


def _drawn(
    path: str, weight: Adaptable, shapes: Mapping[str, tuple[int, ...]], key: jax.Array
) -> dict[str, jax.Array]:
    key = jax.random.fold_in(key, zlib.crc32(path.encode()))
    a, b = jnp.zeros(shapes[adapter.A]), jnp.zeros(shapes[adapter.B])
    if path == EMBEDDING:
        b = jax.random.normal(key, b.shape)
    else:
        bound = math.prod(weight.inputs) ** -0.5
        a = jax.random.uniform(key, a.shape, minval=-bound, maxval=bound)
    return {adapter.A: a, adapter.B: b}


def without_adapters(tree: Params) -> Params:
    """The part of a tree of parameters that is the model's own."""
    return {
        name: without_adapters(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if not name.endswith(adapter.SUFFIX)
    }


def adapter_path(path: str) -> tuple[str, ...]:
    """Where the parts of a weight's adapter are."""
    *above, name = path.split(".")
    return (*above, name + adapter.SUFFIX)
