"""All parameters of a run: the model's and its adapters', which of them train, in which dtypes."""

import dataclasses
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.config import Config
from jaxsft.errors import ConfigError
from jaxsft.model import parts, quantised, settings, state
from jaxsft.model.adapter_plan import Adaptable, adaptable, without_adapters
from jaxsft.model.quantised import Kind
from jaxsft.model.state import Params
from jaxsft.training import groups, lora
from jaxsft.training.lora import Adapters
from jaxsft.training.treatment import Treatment

StoredDtypes = dict[str, str]  # names of dtypes by the parameters' dotted paths


class Way(NamedTuple):
    """How a step runs the layers."""

    remat: str  # the policy
    unroll_layers: int  # in one turn of their loop

    @property
    def words(self) -> str:
        return self.remat if self.unroll_layers == 1 else f"{self.remat}, layers unrolled"

    def set_in(self, config: Config) -> Config:
        """The config with this way, and none that is left open."""
        return dataclasses.replace(
            config, model=dataclasses.replace(config.model, **self._asdict())
        )


_PLAIN = Way("none", 1)


@dataclasses.dataclass(frozen=True)
class Declared:
    """Nothing is allocated."""

    graphdef: nnx.GraphDef
    shapes: Params  # each in the dtype in which it is kept
    axes: Params  # logical ones
    frozen: frozenset[str]  # what is not trained, by dotted paths
    adapters: Adapters | None
    treatments: dict[str, Treatment]  # of each, by dotted paths


def declare(
    config: Config,
    decoder: settings.DecoderSettings,
    way: Way = _PLAIN,
    stored: StoredDtypes | None = None,
    new_ids: Collection[int] = (),
) -> Declared:
    """The parameters of a run.

    Args:
        stored: the dtype of each in the model's files; None: float32.

    Raises:
        ConfigError: config.lora doesn't fit the model, or rows of new tokens would not be trained.
    """
    model = config.model
    graphdef, shapes, axes = state.abstract(
        decoder, model.dtype, way.remat, model.parameter_dtype, way.unroll_layers
    )
    adapters = None
    if config.lora is not None:
        adapters = lora.declare(config.lora, decoder, shapes, axes)
        shapes, axes = adapters.shapes, adapters.axes
    untrained = () if adapters is None else adapters.frozen
    treatments = groups.treatments(config, decoder, shapes, new_ids, untrained)
    frozen = groups.frozen_names(treatments)
    kept, axes = _as_kept(decoder, shapes, axes, frozen, model.frozen_dtype, stored or {})
    return Declared(graphdef, kept, axes, frozen, adapters, treatments)


def with_known_dtype(config: Config, stored: StoredDtypes) -> Config:
    """The config that says in which dtype untrained weights are kept, for a model without files.

    Args:
        stored: what config.json says: one dtype for all.
    """
    dtypes = set(stored.values())
    if config.model.frozen_dtype != "source" or len(dtypes) != 1:
        return config
    kept = "float32" if dtypes == {"float32"} else "bfloat16"  # of float16's size
    return dataclasses.replace(config, model=dataclasses.replace(config.model, frozen_dtype=kept))


def _as_kept(
    decoder: settings.DecoderSettings,
    shapes: Params,
    axes: Params,
    frozen: frozenset[str],
    frozen_dtype: str,
    stored: StoredDtypes,
) -> tuple[Params, Params]:
    """The shapes with the dtypes of the model's frozen weights, or their parts where those are
    quantised; adapters are float32. And the logical axes of all.

    Raises:
        ConfigError: nothing is there to be quantised.
    """
    kind: Kind | None = next((one for one in quantised.KINDS if one == frozen_dtype), None)
    own, own_axes = (without_adapters(tree) for tree in (shapes, axes))
    flat, flat_axes = (nnx.traversals.flatten_mapping(tree) for tree in (shapes, axes))
    few_bits = {} if kind is None else _quantisable(decoder, own, own_axes, frozen)
    if kind is not None and not few_bits:
        raise ConfigError(
            f"config.model.frozen_dtype={kind}: no weight of attention, MLP or experts is frozen;"
            " set config.lora or rules of config.optim.groups, or leave it at source"
        )
    for path in nnx.traversals.flatten_mapping(own):
        leaf, name = flat[path], ".".join(path)
        if kind is not None and name in few_bits:
            weight = few_bits[name]
            stacked, inputs = len(weight.stack), len(weight.inputs)
            flat[path], flat_axes[path] = quantised.declared(
                leaf.shape, weight.axes, kind, stacked, inputs
            )
        elif name in frozen:
            as_stored = kind is not None or frozen_dtype == "source"
            dtype = stored.get(name, "float32") if as_stored else frozen_dtype
            flat[path] = jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))
    return nnx.traversals.unflatten_mapping(flat), nnx.traversals.unflatten_mapping(flat_axes)


def _quantisable(
    decoder: settings.DecoderSettings, shapes: Params, axes: Params, frozen: frozenset[str]
) -> dict[str, Adaptable]:
    """The large frozen matrices of layers: what chooses experts and what knows tokens stay as they
    are, as in QLoRA."""
    found = {
        path: weight
        for path, weight in adaptable(decoder, shapes, axes).items()
        if path in frozen
        and weight.num_layers
        and parts.name_of(path) in ("attention", "mlp", "experts")
    }
    for path, weight in found.items():
        if weight.inputs[-1] % 2:  # two numbers lie in one byte
            raise ConfigError(
                f"config.model.frozen_dtype: {path} has an odd number of inputs,"
                f" {weight.inputs[-1]}, which blocks can't hold; leave it at source"
            )
    return found
