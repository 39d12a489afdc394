"""All parameters of a run: the model's and its adapters', which of them train, in which dtypes."""

import dataclasses
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.config import Config
from jaxsft.model import settings, state
from jaxsft.model.adapter_plan import without_adapters
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
    if config.lora is None:
        treatments = groups.treatments(config, decoder, shapes, new_ids)
        return Declared(graphdef, shapes, axes, groups.frozen_names(treatments), None, treatments)
    adapters = lora.declare(config.lora, decoder, shapes, axes)
    treatments = groups.treatments(config, decoder, adapters.shapes, new_ids, adapters.frozen)
    frozen = groups.frozen_names(treatments)
    kept = as_kept(adapters.shapes, frozen, model.frozen_dtype, stored or {})
    return Declared(graphdef, kept, adapters.axes, frozen, adapters, treatments)


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


def as_kept(
    shapes: Params, frozen: frozenset[str], frozen_dtype: str, stored: StoredDtypes
) -> Params:
    """The shapes with the dtypes of the model's frozen weights; adapters are float32."""

    def kept(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = ".".join(path)
        if path not in own or name not in frozen:
            return leaf
        dtype = stored.get(name, "float32") if frozen_dtype == "source" else frozen_dtype
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype))

    flat = nnx.traversals.flatten_mapping(shapes)
    own = nnx.traversals.flatten_mapping(without_adapters(shapes))
    return nnx.traversals.unflatten_mapping({path: kept(path, leaf) for path, leaf in flat.items()})
