"""Answers to any number of prompts, in batches that fit into the memory of the devices.

B: row, T: token of a prompt, X: stop token.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import numpy as np
from flax import nnx

from jaxsft.devices import progress
from jaxsft.devices.mesh import parts
from jaxsft.errors import ConfigError
from jaxsft.generation import decoding, memory, shapes
from jaxsft.generation.decoding import Decoding
from jaxsft.generation.sampling import Choice, Sampling, choice_of
from jaxsft.generation.shapes import BatchShape
from jaxsft.model.state import Params, model_of

_TOKENS_BETWEEN = 16
_NO_TOKEN = -1
_STOPS = 8  # other numbers of stop tokens are rounded up to a multiple


@dataclasses.dataclass(frozen=True)
class Answer:
    """
    Attributes:
        ids: the stop token included.
        ended: by a stop token, or by who watched; False: max_new_tokens were not enough, or what
            the model has positions for.
    """

    ids: list[int]
    ended: bool


# Called with a prompt's index and all of its answer so far, each time that there is more of it:
# whether it ends here. The same on all processes.
Watch = Callable[[int, list[int]], bool]


class Interrupted(Exception):
    """Who asked for answers wants them no more."""


def generate(
    graphdef: nnx.GraphDef,
    params: Params,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_ids: Collection[int],
    numbers: Sequence[int] | None = None,
    watch: Watch | None = None,
    tokens_between: int = _TOKENS_BETWEEN,
    most_rows: int | None = None,
    stopped: Callable[[], bool] | None = None,
) -> list[Answer]:
    """What follows each prompt; on the mesh in use (`jax.set_mesh`), split as in training.

    Args:
        stop_ids: an answer ends with the first of these, or after max_new_tokens.
        numbers: of the prompts, on which what chance gives them depends; None: their indices.
        tokens_between: written until they are looked at.
        most_rows: of a batch; None: as many as fit.
        stopped: whether to write no more; asked each time that the tokens are looked at, and the
            same on all processes.

    Raises:
        ConfigError: a prompt of no tokens, or of more than the model has positions for.
        Interrupted: `stopped` said so.
    """
    if not prompts:
        return []
    s = model_of(graphdef, params).settings
    _check_lengths(prompts, s.max_positions)
    numbers = range(len(prompts)) if numbers is None else numbers
    choice = choice_of(sampling, s.num_tokens)
    batches = _Batches(graphdef, params, sampling, choice, set(stop_ids), stopped)
    if most_rows is None:
        most_rows = batches.most_rows(max(map(len, prompts)))
    found: dict[int, Answer] = {}
    for indices in shapes.batches([len(prompt) for prompt in prompts], most_rows):
        now = batches.read([prompts[i] for i in indices], [numbers[i] for i in indices])
        lengths = [min(sampling.max_new_tokens, s.max_positions - len(prompts[i])) for i in indices]
        limits = dict(zip(indices, lengths, strict=True))
        found |= batches.write(now, limits, watch, tokens_between)
    return [found[index] for index in range(len(prompts))]


def _check_lengths(prompts: Sequence[Sequence[int]], max_positions: int) -> None:
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < max_positions:
            raise ConfigError(
                f"prompt {index} has {len(prompt)} tokens: it must have 1 at least, and fewer than"
                f" the {max_positions} positions that the model was made for"
            )


def left_padded(
    prompts: Sequence[Sequence[int]], rows: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts ended together, padding in front.

    [[5, 6, 7], [8]]  ->  tokens    0 5 6 7   0 0 0 8
                          segments  0 1 1 1   0 0 0 1
    """
    tokens_BT = np.zeros((rows, length), np.int32)
    segments_BT = np.zeros((rows, length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, length - len(prompt) :] = prompt
        segments_BT[row, length - len(prompt) :] = 1
    return tokens_BT, segments_BT


@dataclasses.dataclass(frozen=True)
class _Batches:
    """What all batches of prompts have in common."""

    graphdef: nnx.GraphDef
    params: Params
    sampling: Sampling
    choice: Choice
    stop_ids: Collection[int]
    stopped: Callable[[], bool] | None

    def most_rows(self, longest: int) -> int:
        """That fit, with prompts as long as the longest."""
        shape = self._shape(1, longest)
        return memory.rows_that_fit(self.graphdef, self.params, shape) * _row_parts()

    def _shape(self, rows: int, longest: int) -> BatchShape:
        return shapes.shape_of(rows, longest, self.sampling.max_new_tokens, _row_parts())

    def read(self, prompts: Sequence[Sequence[int]], numbers: Sequence[int]) -> Decoding:
        shape = self._shape(len(prompts), max(map(len, prompts)))
        lengths_B, numbers_B = np.zeros(shape.rows, np.int32), np.zeros(shape.rows, np.uint32)
        lengths_B[: len(prompts)] = [len(prompt) for prompt in prompts]
        numbers_B[: len(prompts)] = numbers
        now = decoding.start(
            self.graphdef,
            shape.slots,
            shapes.rounded_up(self.sampling.max_new_tokens, shapes.LEAST_CHUNK),
            self.choice.penalises,
            self.params,
            lengths_B,
            numbers_B,
            np.int32(self.sampling.max_new_tokens),
        )
        tokens_BT, segments_BT = left_padded(prompts, shape.rows, shape.chunk * shape.chunks)
        for first in range(0, tokens_BT.shape[1], shape.chunk):
            read = [part_BT[:, first : first + shape.chunk] for part_BT in (tokens_BT, segments_BT)]
            now = decoding.read(self.graphdef, self.params, now, *read)
        return now

    def write(
        self, now: Decoding, limits: Mapping[int, int], watch: Watch | None, tokens_between: int
    ) -> dict[int, Answer]:
        """The answers by their prompts' indices.

        Args:
            limits: most tokens, by prompt; in the order of the rows.
        """
        found: dict[int, Answer] = {}
        most, written = max(limits.values()), 0
        while written < most and len(found) < len(limits):
            until = np.int32(min(written + tokens_between, most))
            with progress.waiting():
                now = decoding.write(
                    self.graphdef, self.params, now, until, self._stops(), self.choice
                )
            count, ended_B, answers_BY = jax.device_get((now.count, now.ended_B, now.answers_BY))
            progress.mark()
            if self.stopped is not None and self.stopped():
                raise Interrupted
            written, over_B = int(count), np.array(ended_B)
            for row, (index, limit) in enumerate(limits.items()):
                if index in found:
                    continue
                ids = _until_stop(answers_BY[row, : min(written, limit)].tolist(), self.stop_ids)
                ended = ids[-1] in self.stop_ids
                if watch is not None and watch(index, ids):
                    ended = True
                if ended or written >= limit:
                    found[index], over_B[row] = Answer(ids, ended), True
            if (over_B != ended_B).any():
                now = decoding.end(now, over_B)
        return found

    def _stops(self) -> np.ndarray:
        """As many numbers for some stop tokens as for others, for one program."""
        stops_X = np.full(-(-max(len(self.stop_ids), 1) // _STOPS) * _STOPS, _NO_TOKEN, np.int32)
        stops_X[: len(self.stop_ids)] = sorted(self.stop_ids)
        return stops_X


def _row_parts() -> int:
    """Among which the mesh in use splits the rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else parts("batch", mesh.shape)


def _until_stop(ids: list[int], stop_ids: Collection[int]) -> list[int]:
    for index, token in enumerate(ids):
        if token in stop_ids:
            return ids[: index + 1]
    return ids
