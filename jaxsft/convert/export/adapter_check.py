"""Whether an adapter's directory holds what was trained: its logits beside those of the run."""

import functools
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxsft.convert.adapter import factors
from jaxsft.convert.families import config_json
from jaxsft.convert.pretrained import Pretrained
from jaxsft.devices import distributed
from jaxsft.errors import ConversionError
from jaxsft.model import adapter, adapter_plan, state
from jaxsft.model.adapter_plan import without_adapters
from jaxsft.model.state import Params

TOLERANCE = 1e-5  # of the largest logit: ranks that were put together are summed in another order
_TOKENS = 32
_STARTS = (adapter.A_START, adapter.B_START)  # which the files' factors have in them


class Effect(NamedTuple):
    """Largest differences of logits on some tokens, in float32."""

    read_back: float  # the adapter as files have it, from the one that was trained
    base: float  # the base without it


def compare(params: Params, base: Pretrained, directory: Path, rows: int = 1) -> Effect:
    """The effect of an adapter, from its files; every process takes part.

    Args:
        params: as trained, adapters beside their weights.
        rows: of tokens, so many as the mesh in use splits.

    Raises:
        ConversionError: the files hold another adapter, or one without effect.
    """
    again = _read_back(params, base, directory)
    graphdef, _, _ = state.abstract(base.settings, "float32", "none")
    vocabulary, length = base.settings.num_tokens, min(_TOKENS, base.settings.max_positions)
    drawn = np.random.default_rng(0).integers(0, vocabulary, (rows, length))
    tokens_BT = jnp.asarray(drawn, jnp.int32)

    mesh = jax.sharding.get_mesh()
    everywhere = None if mesh.empty else NamedSharding(mesh, PartitionSpec())

    @functools.partial(jax.jit, out_shardings=everywhere)
    def differences(trained: Params, again: Params) -> list[jax.Array]:
        own = without_adapters(again)
        logits = [state.model_of(graphdef, tree)(tokens_BT) for tree in (trained, again, own)]
        # Padding of the vocabulary is -inf in all.
        first, *others = (jnp.where(jnp.isfinite(one), one, 0.0) for one in logits)
        return [jnp.max(jnp.abs(first - one)) for one in (*others, jnp.zeros_like(first))]

    read_back, effect, largest = map(float, jax.device_get(differences(params, again)))
    if not read_back <= TOLERANCE * max(1.0, largest):
        raise ConversionError(
            f"{directory}: its logits differ by {read_back:.3g} from those that were trained;"
            " please report this model"
        )
    if effect == 0:
        raise ConversionError(
            f"{directory}: the adapter changes no logit of its base: nothing was learnt"
        )
    return Effect(read_back, effect)


def _read_back(params: Params, base: Pretrained, directory: Path) -> Params:
    """The parameters with the adapters of the files, which the first process reads, in the place of
    their own."""
    flat = nnx.traversals.flatten_mapping(params)
    adapted = {path[:-1] for path in flat if path[-1] == adapter.A}
    read = distributed.arrays_of_first(lambda: _parts(base, directory, adapted))
    flat = {path: leaf for path, leaf in flat.items() if path[-1] not in _STARTS}
    for name, array in read.items():
        path = tuple(name.split("."))
        flat[path] = jax.device_put(array, flat[path].sharding)
    return nnx.traversals.unflatten_mapping(flat)


def _parts(
    base: Pretrained, directory: Path, adapted: Collection[tuple[str, ...]]
) -> dict[str, np.ndarray]:
    """The parts of adapters in a directory, stacked as in the model, by their dotted paths.

    Raises:
        ConversionError: the directory lacks one, or holds what belongs to nothing.
    """
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    weights = adapter_plan.adaptable(base.settings, shapes, axes)
    in_memory = config_json.module_names(base.config, str(base.path))
    stacks, _ = factors.read(directory, base.table, shapes, in_memory)
    if missing := sorted(set(adapted) - {adapter_plan.adapter_path(path) for path in stacks}):
        raise ConversionError(f"{directory}: has no adapter for {'.'.join(missing[0])}")
    return {
        ".".join((*at, part)): np.asarray(array)
        for path, stack in stacks.items()
        # A part of a fused matrix that has none of its own gets zeros.
        if (at := adapter_plan.adapter_path(path)) in adapted
        for part, array in stack.arrays(weights[path]).items()
    }
