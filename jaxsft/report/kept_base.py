"""What it changed that a run kept its base in few bits: logits of what was trained beside those of
its files.

T: tokens, V: the vocabulary.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft import config as config_lib
from jaxsft.convert import pretrained
from jaxsft.convert.pretrained import Pretrained
from jaxsft.devices import mesh as mesh_lib
from jaxsft.model import adapter_plan, state
from jaxsft.model.state import Params

_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two models' predictions on a few tokens."""

    what: str
    largest: float  # between two logits
    nats: float  # KL divergence of a token's prediction, on average

    @property
    def words(self) -> str:
        return (
            f"{self.what}: logits differ by up to {self.largest:.2g}, {self.nats:.2g} nats a token"
        )


def of_base(params: Params, base: Pretrained, token_ids: np.ndarray) -> Difference:
    """The base as it was kept, beside the one in its files; every process takes part.

    Args:
        params: where they lie, on the mesh in use.
    """
    own = adapter_plan.without_adapters(params)
    what = "the base as it was kept, from the one in its files"
    return _difference(what, own, base, base.source, token_ids)


def of_export(
    params: Params, base: Pretrained, directory: Path, token_ids: np.ndarray, merged: bool
) -> Difference:
    """An export as others read it, beside what was trained; every process takes part."""
    what = "the merged model" if merged else "the adapter on the base in its files"
    return _difference(f"{what}, from what was trained", params, base, directory, token_ids)


def _difference(
    what: str, params: Params, base: Pretrained, source: str | Path, token_ids: np.ndarray
) -> Difference:
    """Between these parameters and those of a model or an adapter on disk."""
    opened = pretrained.open_pretrained(source)
    num_tokens = min(one.settings.num_tokens for one in (base, opened))  # one may have new ones
    ids_T = np.resize(token_ids[token_ids < num_tokens], _TOKENS)
    ours_TV = _logits(params, base, ids_T)[:, :num_tokens].astype(np.float64)
    theirs_TV = _logits_of_files(opened, ids_T)[:, :num_tokens].astype(np.float64)
    logs = [x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (ours_TV, theirs_TV)]
    nats_T = np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=-1)
    return Difference(what, float(np.abs(ours_TV - theirs_TV).max()), float(nats_T.mean()))


def _logits(params: Params, base: Pretrained, ids_T: np.ndarray) -> np.ndarray:
    """Float32 [T, V]."""
    mesh = jax.sharding.get_abstract_mesh()
    rows = 1 if mesh.empty else mesh_lib.parts("batch", mesh.shape)
    tokens_BT = jnp.asarray(np.tile(ids_T, (rows, 1)), jnp.int32)
    graphdef, _, _ = state.abstract(base.settings, "float32", "none")

    @jax.jit
    def compute(params: Params) -> jax.Array:
        logits_BTV = state.model_of(graphdef, params)(tokens_BT)
        return mesh_lib.constrain(logits_BTV, None, None, None)[0]

    with jax.default_matmul_precision("highest"):
        return np.asarray(compute(params))


def _logits_of_files(opened: Pretrained, ids_T: np.ndarray) -> np.ndarray:
    """With the weights in the host's memory, where one process has all of them."""
    stored = pretrained.stored_dtypes(opened)
    _, shapes, axes = state.abstract(opened.settings, "float32", "none")
    flat = nnx.traversals.flatten_mapping(shapes)
    shapes = nnx.traversals.unflatten_mapping(
        {
            path: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(stored[".".join(path)]))
            for path, leaf in flat.items()
        }
    )
    mesh = _mesh()
    with jax.set_mesh(mesh):
        placement = state.shardings(shapes, axes, mesh)
        return _logits(pretrained.read_params(opened, placement, shapes), opened, ids_T)


def _mesh() -> jax.sharding.Mesh:
    if jax.process_count() > 1:
        return jax.sharding.get_mesh()
    try:
        devices = jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        devices = jax.local_devices()
    return mesh_lib.make_mesh(config_lib.Mesh(), devices[:1])
