"""What a tiny model and its import compute from the same rows: a whole one, and a packed one.

B: batch row, T: position.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft.convert.families import tensor_table
from jaxsft.convert.tensors import huggingface
from jaxsft.training.batch import Batch
from jaxsft.training.loss import loss_sums
from jaxsft.training.loss_settings import loss_form
from tests.convert.families.features import LENGTH, VOCAB

SEGMENTS = (24, 12)  # of the packed row; 4 slots of padding behind them
FLOAT32 = np.dtype(np.float32)


@dataclasses.dataclass(frozen=True)
class Computed:
    logits: list[np.ndarray]  # of each segment
    gradients: dict[str, np.ndarray]  # by the names of transformers


def rows() -> Batch:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (2, LENGTH)).astype(np.int32)
    pad = LENGTH - sum(SEGMENTS)
    segments = np.ones((2, LENGTH), np.int32)
    segments[1] = np.repeat([1, 2, 0], [*SEGMENTS, pad])
    positions = np.stack([np.arange(LENGTH)] * 2).astype(np.int32)
    positions[1] = np.concatenate([np.arange(n) for n in (*SEGMENTS, pad)])
    last = np.zeros((2, LENGTH), bool)
    last[0, -1] = last[1, [SEGMENTS[0] - 1, sum(SEGMENTS) - 1]] = True
    weights = np.where(last | (segments == 0), 0, rng.integers(0, 2, (2, LENGTH)))
    targets = np.roll(tokens, -1, axis=1)
    return Batch(tokens, targets, segments, positions, weights.astype(np.float32))


def spans() -> list[tuple[int, slice]]:
    """Row and slots of each segment."""
    first, second = SEGMENTS
    return [(0, slice(0, LENGTH)), (1, slice(0, first)), (1, slice(first, first + second))]


def their_logits(model: Any) -> list[np.ndarray]:
    """Of each segment by itself, in torch."""
    import torch

    with torch.no_grad():
        return [out.numpy() for out in _their_logits(model)]


def _their_logits(model: Any) -> list[Any]:
    import torch

    batch, found = rows(), {}
    # The shortest first: a dynamic rope there keeps the frequencies of the longest row so far.
    for row, span in sorted(spans(), key=lambda found: found[1].stop - found[1].start):
        ids = torch.tensor(batch.tokens_BT[row, span][None].astype(np.int64))
        found[row, span.start] = model(ids).logits[0]
    return [found[row, span.start] for row, span in spans()]


def theirs(model: Any) -> Computed:
    """Each segment by itself, in torch; gradients of the summed loss."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    batch, total, logits = rows(), 0, _their_logits(model)
    for (row, span), out in zip(spans(), logits, strict=True):
        targets = torch.tensor(batch.targets_BT[row, span].astype(np.int64))
        nll = torch.nn.functional.cross_entropy(out, targets, reduction="none")
        total = total + (nll * torch.tensor(batch.weights_BT[row, span])).sum()
    model.zero_grad()
    total.backward()
    # As a saved model has them: renamed, the experts one by one.
    saved = revert_weight_conversion(model, {n: p.grad for n, p in model.named_parameters()})
    gradients = {name: gradient.numpy() for name, gradient in saved.items()}
    return Computed([out.detach().numpy() for out in logits], gradients)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(graphdef, params, batch):
    form = loss_form(nnx.merge(graphdef, params).settings)
    return jax.grad(lambda params: loss_sums(graphdef, params, batch, form).nll)(params)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, params, batch):
    return nnx.merge(graphdef, params)(batch.tokens_BT, batch.segments_BT, batch.positions_BT)


def our_logits(model: Any) -> list[np.ndarray]:
    """Of each segment, the short ones packed."""
    logits_BTV = np.asarray(_logits(*_parts(model), jax.tree.map(jnp.asarray, rows())))
    return [logits_BTV[row, span] for row, span in spans()]


def our_gradients(model: Any, table: tensor_table.Table) -> dict[str, np.ndarray]:
    gradients = _gradients(*_parts(model), jax.tree.map(jnp.asarray, rows()))
    return {
        tensor.name: huggingface.to_theirs(gradients, tensor, FLOAT32)[0]
        for tensor in tensor_table.tensors(gradients, table)
    }


def ours(model: Any, table: tensor_table.Table) -> Computed:
    return Computed(our_logits(model), our_gradients(model, table))


def _parts(model: Any) -> tuple[Any, Any]:
    graphdef, state = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(state)


@functools.partial(jax.jit, static_argnums=0)
def _decode(graphdef, params, tokens_BT, segments_BT):
    """Logits [T, B, V] of one token after the other, through the cache."""
    model = nnx.merge(graphdef, params)
    positions_BT = jnp.maximum(jnp.cumsum(segments_BT, axis=1) - 1, 0)
    cache = model.empty_cache(*tokens_BT.shape)

    def step(cache, column):
        logits_BV, cache = model.extend(*(part_B[:, None] for part_B in column), cache)
        return cache, logits_BV

    columns = [part_BT.T for part_BT in (tokens_BT, segments_BT, positions_BT)]
    return jax.lax.scan(step, cache, tuple(columns))[1]


def decoded(model: Any) -> list[np.ndarray]:
    """Logits of the whole row, and of the packed row's first segment behind padding."""
    batch, length = rows(), SEGMENTS[0]
    tokens_BT, segments_BT = batch.tokens_BT.copy(), np.ones((2, LENGTH), np.int32)
    tokens_BT[1, LENGTH - length :] = batch.tokens_BT[1, :length]
    segments_BT[1, : LENGTH - length] = 0
    logits = _decode(*_parts(model), tokens_BT, segments_BT)
    logits_TBV = np.asarray(logits)
    return [logits_TBV[:, 0], logits_TBV[LENGTH - length :, 1]]


def greatest_difference(actual: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(actual, expected, strict=True))


def relative_differences(
    actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """Of each tensor's gradient, by norms; where it cancels out, by a thousandth of the largest."""
    sizes = {name: float(np.linalg.norm(gradient)) for name, gradient in expected.items()}
    least = 1e-3 * max(sizes.values())
    return {
        name: float(np.linalg.norm(actual[name] - gradient)) / max(sizes[name], least)
        for name, gradient in expected.items()
    }
