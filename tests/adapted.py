"""Models with adapters that were moved at random, for tests."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxsft
from jaxsft.config import Config, Data, Lora, Model, Optim, Source, Train
from jaxsft.convert import pretrained
from jaxsft.convert.export.directory import export
from jaxsft.devices import mesh
from jaxsft.model import adapter, adapter_plan, state
from jaxsft.training import lora
from tests.programs import ROOT

TOKENS = np.arange(24, dtype=np.int32)[None]


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


def debug_base(directory, seed=0):
    """Writes the debug model with weights, in bfloat16."""
    model = pretrained.open_pretrained(ROOT / "configs" / "debug_model", weights=False)
    _, shapes, _ = state.abstract(model.settings, "float32", "none")
    one = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    params = state.random_params(model.settings, seed, one)
    return export(params, model, directory, dtype="bfloat16").directory


def config_of(kind, **lora):
    """A run of adapters on a base that is kept in a kind of quantisation."""
    return Config(
        model=Model(source="x", weights="random", dtype="float32", frozen_dtype=kind),
        data=Data(train=(Source(path="x"),), sequence_length=16),
        optim=Optim(peak_lr=1e-3, warmup_steps=0),
        train=Train(batch_size=8, steps=2),
        lora=Lora(rank=2, **lora),
    )


def logits(source):
    """What load_model makes of it computes for a row of tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = jaxsft.load_model(source)
    return np.asarray(jax.jit(lambda model: model(TOKENS))(model))
