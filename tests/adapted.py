"""Models with adapters that were moved at random, for tests."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft.devices import mesh
from jaxsft.model import adapter, adapter_plan, state
from jaxsft.training import lora


def with_adapters(model, asked, params):
    """The parameters with adapters at their first values, and what was declared."""
    _, shapes, axes = state.abstract(model, "float32", "none")
    made = lora.declare(asked, model, shapes, axes)
    placement = state.shardings(made.shapes, made.axes, mesh.single_device_mesh())
    params = jax.tree.map(jnp.asarray, params)
    return adapter_plan.first_values(made.specs, made.weights, params, placement, seed=0), made


def disturbed(params, frozen):
    """All that is trained, moved at random by a part of what it is."""
    rng = np.random.default_rng(0)
    flat = nnx.traversals.flatten_mapping(params)
    for path, leaf in flat.items():
        if ".".join(path) not in frozen:
            size = 0.05 if any(key.endswith(adapter.SUFFIX) for key in path) else 0.2
            change = size * rng.normal(size=leaf.shape).astype(np.float32)
            flat[path] = leaf + change.astype(leaf.dtype)
    return nnx.traversals.unflatten_mapping(flat)
