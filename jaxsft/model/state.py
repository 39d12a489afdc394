"""A decoder as a graph definition and a plain pytree of arrays, with each leaf's logical axes."""

import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from jaxsft.devices import mesh as mesh_lib
from jaxsft.model import quantised, settings
from jaxsft.model.adapter import together
from jaxsft.model.layer_stacks import LAYERS
from jaxsft.model.quantised import Quantised
from jaxsft.model.transformer import Decoder

Params = dict[str, Any]  # nested; the leaves are arrays, those of layers stacked


def abstract(
    s: settings.DecoderSettings,
    dtype: str,
    remat: str,
    parameter_dtype: str = "float32",
    unroll_layers: int = 1,
) -> tuple[nnx.GraphDef, Params, Params]:
    """The decoder's graph definition, its parameters' shapes, and their logical axes.

    Nothing is allocated. `model_of(graphdef, params)` is the model for any params of this shape.

    Args:
        dtype: of the computation.
        parameter_dtype: of the shapes.
    """

    graphdef, state = _declared(s, dtype, remat, unroll_layers)
    axes = {
        path: (("layer",) if path[0] == LAYERS else ()) + variable.get_metadata()["axes"]
        for path, variable in nnx.to_flat_state(state)
    }
    kept = jnp.dtype(parameter_dtype)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, kept), nnx.to_pure_dict(state)
    )
    return graphdef, shapes, nnx.traversals.unflatten_mapping(axes)


def num_inputs(s: settings.DecoderSettings) -> dict[tuple[str, ...], int]:
    """Dimensions that a product with a matrix sums over, by the matrix's path.

    They are the first ones; those of layers and experts are not counted.
    """
    _, state = _declared(s, "float32", "none", 1)
    found = {tuple(map(str, path)): leaf.get_metadata() for path, leaf in nnx.to_flat_state(state)}
    return {path: metadata["inputs"] for path, metadata in found.items() if "inputs" in metadata}


def _declared(
    s: settings.DecoderSettings, dtype: str, remat: str, unroll_layers: int
) -> tuple[nnx.GraphDef, Any]:
    """The decoder with shapes in the place of arrays."""

    def make() -> Decoder:
        return Decoder(s, rngs=nnx.Rngs(0), dtype=dtype, remat=remat, unroll_layers=unroll_layers)

    graphdef, state, *_ = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    return graphdef, state


def model_of(graphdef: nnx.GraphDef, params: Params) -> Decoder:
    """The model with these parameters, and with the adapters that lie beside them."""
    return nnx.merge(graphdef, together(params))


def shardings(shapes: Params, axes: Params, mesh: Mesh) -> Params:
    """A NamedSharding for each parameter.

    Raises:
        ConfigError: a dimension that its mesh axis doesn't divide.
    """

    def place(path, shape, leaf_axes):
        if isinstance(shape, Quantised):
            split = quantised.placed(shape, leaf_axes, mesh.shape)
            return jax.tree.map(lambda *part: place(path, *part), shape, split)
        mesh_lib.check_divisible(jax.tree_util.keystr(path), shape.shape, leaf_axes, mesh.shape)
        return mesh_lib.sharding(mesh, *mesh_lib.fitted(shape.shape, leaf_axes, mesh.shape))

    return jax.tree.map_with_path(place, shapes, axes, is_leaf=quantised.is_weight)


def random_params(
    s: settings.DecoderSettings, seed: int, placement: Params, shapes: Params | None = None
) -> Params:
    """Random parameters, made where they belong; the same on any mesh but for rounding.

    Args:
        shapes: with the dtype of each; None: all float32.
    """

    def init(key):
        model = Decoder(s, rngs=nnx.Rngs(params=key))
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        if shapes is None:
            return params
        return as_kept(params, shapes)

    return jax.jit(init, out_shardings=placement)(jax.random.key(seed))


def num_parameters(params: Params) -> int:
    """Numbers in all weights, however they are kept."""
    flat = nnx.traversals.flatten_mapping(params)
    return sum(math.prod(leaf.shape) for leaf in flat.values())


def as_kept(params: Params, shapes: Params) -> Params:
    """The parameters in the dtypes of `shapes`, quantised where those are."""

    def kept(leaf: jax.Array, shape: Any) -> Any:
        return shape.of(leaf) if isinstance(shape, Quantised) else leaf.astype(shape.dtype)

    flat = nnx.traversals.flatten_mapping(params)
    wanted = nnx.traversals.flatten_mapping(shapes)
    return nnx.traversals.unflatten_mapping(
        {path: kept(leaf, wanted[path]) for path, leaf in flat.items()}
    )


def split(params: Params, names: Collection[str]) -> tuple[Params, Params]:
    """The parameters without those that are named, and those alone.

    Args:
        names: dotted paths, such as "layers.mlp.down_FD".
    """
    flat = nnx.traversals.flatten_mapping(params)
    named = {path: leaf for path, leaf in flat.items() if ".".join(path) in names}
    others = {path: leaf for path, leaf in flat.items() if path not in named}
    assert len(named) == len(names), f"no parameters: {sorted(names)} of {flat.keys()}"
    return nnx.traversals.unflatten_mapping(others), nnx.traversals.unflatten_mapping(named)


def merged(some: Params, others: Params) -> Params:
    """The parameters of both trees, which `split` made."""
    return nnx.traversals.unflatten_mapping(
        nnx.traversals.flatten_mapping(some) | nnx.traversals.flatten_mapping(others)
    )
