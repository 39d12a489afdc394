"""The loss of each token of single examples, for those who look at them.

B: batch row, T: position.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxsft.config import Config
from jaxsft.devices import mesh as mesh_lib
from jaxsft.kernels.loss.chunks import AllSums
from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.form import LossForm, Targets
from jaxsft.model.state import Params, model_of
from jaxsft.training import mesh_fit, over_mesh
from jaxsft.training.batch import Batch
from jaxsft.training.job import Job
from jaxsft.training.loss_settings import loss_form


class TokenLosses:
    """Forward passes as an evaluation's, of as few rows as the mesh allows; compiled when first
    asked for."""

    def __init__(self, config: Config, job: Job):
        program = job.program
        self._length = config.data.sequence_length
        self._rows = mesh_fit.batch_multiple(program.mesh.shape)
        self._sharding = over_mesh.batch_sharding(program.mesh)
        platform = program.mesh.devices.flat[0].platform
        form = loss_form(program.settings, num_segments=self._length, platform=platform)
        self._losses = jax.jit(
            functools.partial(_losses, program.recipe.graphdef, form),
            in_shardings=(program.placement.params, self._sharding),
            out_shardings=mesh_lib.sharding(program.mesh),
        )

    def of(self, params: Params, examples: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Nats of each token of each example, given those before it; NaN: the first, and those
        behind the end of a row. All processes take part, with the same examples.

        Args:
            examples: their ids.
        """
        found = []
        for start in range(0, len(examples), self._rows):
            some = examples[start : start + self._rows]
            losses_BT = jax.device_get(self._losses(params, self._batch(some)))
            for ids, losses_T in zip(some, losses_BT, strict=False):
                known = losses_T[: len(ids) - 1]
                found.append(np.full(len(ids), np.nan))
                found[-1][1 : 1 + len(known)] = known
        return found

    def _batch(self, examples: Sequence[np.ndarray]) -> Batch:
        """One example a row, of which each token is a target:

        tokens 5 6 7 0, targets 6 7 0 0, weights 1 1 0 0, segments 1 1 1 0, positions 0 1 2 0
        """
        shape = self._rows, self._length
        tokens, targets, segments, positions = (np.zeros(shape, np.int32) for _ in range(4))
        weights = np.zeros(shape, np.float32)
        for row, ids in enumerate(examples):
            count = min(len(ids), self._length)
            tokens[row, :count], segments[row, :count] = ids[:count], 1
            positions[row, :count] = np.arange(count)
            last = min(len(ids) - 1, self._length)
            targets[row, :last], weights[row, :last] = ids[1 : last + 1], 1
        return Batch(*map(self._global, (tokens, targets, segments, positions, weights)))

    def _global(self, array_BT: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            """What one device holds."""
            return array_BT[index]

        return jax.make_array_from_callback(array_BT.shape, self._sharding, part)


def _losses(graphdef, form: LossForm, params: Params, batch: Batch) -> jax.Array:
    """float32 [B, T]: of the target at each position. As the sums of segments, of which each
    position is one, so that no more logits are held than in a step."""
    model = model_of(graphdef, params)
    hidden_BTD, _ = model.hidden_and_routing(
        batch.tokens_BT, batch.segments_BT, batch.positions_BT, None, None
    )
    places_BT = jax.lax.broadcasted_iota("int32", batch.tokens_BT.shape, 1) + 1
    targets = Targets(batch.targets_BT, batch.weights_BT, None, places_BT)
    sums: AllSums = cross_entropy(hidden_BTD, model.head(), targets, form)
    assert sums[1] is not None, "a form without segments"
    return sums[1].nll_BM
