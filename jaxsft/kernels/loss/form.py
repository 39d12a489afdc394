"""The static form of a cross-entropy, and its targets.

B: batch row, T: position, U: embed_dim of the teacher, X: likeliest token of a teacher.
"""

import dataclasses
from typing import Literal

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossForm:
    """All that is static of a cross-entropy; made with the program."""

    vocab_size: int  # columns of the head that are no padding, which never wins
    soft_cap: float | None = None  # logits become soft_cap * tanh(logits / soft_cap)
    tied: bool = False  # the head is the embedding, [V, D]
    num_sources: int | None = None  # of a mixture whose sums are kept apart too
    num_segments: int | None = None  # of a row, at most, whose sums are kept apart too
    kind: Literal["cross_entropy", "dft"] = "cross_entropy"
    label_smoothing: float = 0.0  # share of a target that is spread over the vocabulary
    z_loss: float = 0.0  # x the square of the log-sum-exp
    reweighted: bool = False  # targets have weights of their own in what is minimised
    distil: "DistilForm | None" = None  # None: no teacher
    most_chunk_tokens: int = 1024  # at once, of a device's

    @property
    def plain(self) -> bool:
        """Whether what is minimised is nll, as it is summed anyway."""
        others = self.label_smoothing or self.z_loss or self.distil is not None
        return not (self.reweighted or others or self.kind == "dft")

    @property
    def head_dims(self) -> str:
        return "VD" if self.tied else "DV"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilForm:
    """What is static of a teacher's part in what is minimised.

    It is alpha x the loss without a teacher + (1 - alpha) x temperature^2 x KL(teacher || student).
    """

    vocab_size: int  # the first tokens of the vocabulary, over which they are compared
    teacher: LossForm | None  # its head's; None: what it said comes with the targets
    alpha: float
    temperature: float = 1.0
    top_k: int | None = None  # of the teacher, that are compared one by one; None: all


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TeacherOutputs:
    """What a teacher's distributions are computed from, a chunk of tokens at a time."""

    hidden_BTU: jax.Array
    head_x: jax.Array  # [U, V], or the embedding [V, U] where tied; V is the student's


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TeacherTargets:
    """What a teacher said once: its likeliest tokens."""

    ids_BTX: jax.Array  # int32; -1 where there is none, behind the others
    logprobs_BTX: jax.Array  # float32, natural


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    targets_BT: jax.Array  # int32 in [0, vocab_size) wherever the weight isn't 0
    weights_BT: jax.Array  # float32; 0 for targets without loss
    sources_BT: jax.Array | None = None  # int32 in [0, num_sources)
    segments_BT: jax.Array | None = None  # int32; a row's count from 1, padding is 0
    # float32; of what is minimised, 0 where weights_BT is. None: weights_BT.
    objective_weights_BT: jax.Array | None = None
    teacher: TeacherOutputs | TeacherTargets | None = None
