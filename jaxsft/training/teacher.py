"""The model that a run learns from: opened, held against the student, placed, read, announced."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxsft.config import Config, Distil
from jaxsft.convert import other_rows, pretrained, source
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.vocabulary import check_tokenizer
from jaxsft.data.cache.store import Cache
from jaxsft.errors import ConfigError, ConversionError, MeshError
from jaxsft.kernels.loss.form import DistilForm, LossForm
from jaxsft.model import state
from jaxsft.model.quantised import is_weight
from jaxsft.model.settings import DecoderSettings
from jaxsft.model.state import Params
from jaxsft.training import inputs, parameters
from jaxsft.training.loss_settings import loss_form
from jaxsft.training.parameters import StoredDtypes

_EVALUATION = "evaluation is without the teacher: the cross-entropy alone"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model to learn from; no weight has been read yet."""

    settings: DecoderSettings  # with as many rows of the vocabulary as the student has
    num_tokens: int  # that the distributions are compared over: the first rows of both models
    stored: StoredDtypes  # the dtype of each parameter in its files
    base: Pretrained | None = None  # None: made up, without files


@dataclasses.dataclass(frozen=True)
class PlacedTeacher:
    """A teacher over the mesh of a run; nothing is allocated."""

    model: Teacher
    graphdef: nnx.GraphDef
    shapes: Params  # each in the dtype in which it is kept
    placement: Params
    form: DistilForm

    @property
    def num_parameters(self) -> int:
        return state.num_parameters(self.shapes)


def open_teacher(config: Config, student: DecoderSettings, weights: bool = True) -> Teacher | None:
    """The model that config.distil names, its headers read and checked; None: it names none.

    Args:
        weights: whether they are needed at all, as they are not to plan.

    Raises:
        ConfigError: it does not fit the run.
        ConversionError: it can't be read, or its tokens are not the student's.
    """
    distil = config.distil
    if distil is None or distil.teacher is None:
        return None
    with _naming(distil.teacher):
        opened = pretrained.open_pretrained(distil.teacher, weights=weights)
        theirs = _tokens(source.tokenizer_directory(distil.teacher, None, config.data.cache_dir))
    ours = _tokens(inputs.tokenizer_directory(config))
    _refuse_other_tokens(distil.teacher, theirs, ours)
    num_tokens = min(1 + max(ours), student.num_tokens, opened.settings.num_tokens)
    _refuse_unfit(config, opened.settings, num_tokens)
    fitted = other_rows.with_rows(opened, student.vocab_size)
    return Teacher(fitted.settings, num_tokens, pretrained.stored_dtypes(fitted), fitted)


def declare(config: Config, teacher: Teacher, mesh: Mesh) -> PlacedTeacher:
    """The teacher's parameters over a mesh, split like any model's.

    Raises:
        MeshError: a dimension of its that the mesh doesn't divide.
    """
    assert config.distil is not None
    # It has no backward pass, so there is nothing to keep or to compute again.
    graphdef, shapes, axes = state.abstract(teacher.settings, config.model.dtype, "none")
    names = frozenset(map(".".join, nnx.traversals.flatten_mapping(shapes)))
    kept, axes = parameters.as_kept(
        teacher.settings, shapes, axes, names, config.distil.dtype, teacher.stored
    )
    try:
        placement = state.shardings(kept, axes, mesh)
    except MeshError as error:
        raise MeshError(f"config.distil.teacher={config.distil.teacher}: {error}") from None
    return PlacedTeacher(teacher, graphdef, kept, placement, _form(config.distil, teacher))


def _form(distil: Distil, teacher: Teacher) -> DistilForm:
    head: LossForm = dataclasses.replace(loss_form(teacher.settings), vocab_size=teacher.num_tokens)
    return DistilForm(
        vocab_size=teacher.num_tokens,
        teacher=head,
        alpha=distil.alpha,
        temperature=distil.temperature,
        top_k=distil.top_k,
    )


def stored_top_k(config: Config) -> int | None:
    """How many tokens are taken of what rows say of a teacher; None: they are not read."""
    distil = config.distil
    return distil.top_k if distil is not None and distil.teacher is None else None


def form_of_stored(config: Config, student: DecoderSettings) -> DistilForm | None:
    """The part of a teacher whose words stand in the rows; None: there is no such teacher."""
    top_k = stored_top_k(config)
    if config.distil is None or top_k is None:
        return None
    alpha = config.distil.alpha
    return DistilForm(vocab_size=student.num_tokens, teacher=None, alpha=alpha, top_k=top_k)


def refuse_rows_without(config: Config, cache: Cache) -> None:
    """Refuses training data of which not all say what a teacher thought of them.

    Raises:
        ConfigError: with the first example that does not.
    """
    without = np.flatnonzero(cache.widths == 0)
    if stored_top_k(config) is None or not len(without):
        return
    file, row = cache.source_of(int(without[0]))
    raise ConfigError(
        f"config.distil.teacher=None: {len(without):,} of {len(cache):,} examples have no"
        f" teacher_ids and teacher_logprobs, such as {file}:{row}; name a model, or add them to"
        " the rows, which must be of the format tokenized"
    )


def unread_notes(config: Config, cache: Cache) -> list[str]:
    """A line where rows say what a teacher thought and nothing reads it."""
    count = int(np.count_nonzero(cache.widths))
    if stored_top_k(config) is not None or not count:
        return []
    return [
        f"note: {count:,} examples have teacher_ids, which are not read:"
        " config.distil.top_k=N without config.distil.teacher learns from them"
    ]


def read(placed: PlacedTeacher) -> Params:
    """The teacher's weights, where they belong; each process reads its own part."""
    base = placed.model.base
    assert base is not None
    with _naming(base.source):
        return pretrained.read_params(base, placed.placement, placed.shapes)


def notes(config: Config, placed: PlacedTeacher | None) -> list[str]:
    """Who teaches, and what is minimised, for the user."""
    distil = config.distil
    if distil is None:
        return []
    if placed is None:
        return [
            f"objective = {distil.alpha:g} x the loss + {1 - distil.alpha:g} x KL(teacher ||"
            f" student), of at most {distil.top_k} tokens that the rows say for a target, and all"
            " others as one; metrics.jsonl has the cross-entropy as loss, and kl and objective"
            " beside it",
            _EVALUATION,
        ]
    s, form = placed.model.settings, placed.form
    flat = nnx.traversals.flatten_mapping(placed.shapes).values()
    dtypes = sorted({one.kind if is_weight(one) else str(one.dtype) for one in flat})
    compared = "the whole vocabulary"
    if form.top_k is not None:
        compared = f"its {form.top_k:,} likeliest tokens and all others as one"
    rate = f"{(1 - form.alpha) * form.temperature**2:g}"
    return [
        f"teacher {distil.teacher}: {placed.num_parameters / 1e6:,.1f}M parameters,"
        f" {s.num_layers} layers, kept in {' and '.join(dtypes)}; read only, in no checkpoint",
        f"objective = {form.alpha:g} x the loss + {rate} x KL(teacher || student) at temperature"
        f" {form.temperature:g}, of {compared}; {form.vocab_size:,} tokens are compared;"
        " metrics.jsonl has the cross-entropy as loss, and kl and objective beside it",
        _EVALUATION,
    ]


@contextlib.contextmanager
def _naming(teacher: str) -> Iterator[None]:
    """Inside, an error of a model's files says which field named it."""
    try:
        yield
    except ConversionError as error:
        said = str(error).removeprefix(f"model.source={teacher}: ")
        raise ConversionError(f"config.distil.teacher={teacher}: {said}") from error


def _tokens(directory: Path) -> dict[int, str]:
    """By their ids."""
    found = check_tokenizer.open_with_transformers(directory).get_vocab()
    return {index: token for token, index in found.items()}


def _refuse_other_tokens(teacher: str, theirs: Mapping[int, str], ours: Mapping[int, str]) -> None:
    for index in sorted(theirs.keys() | ours.keys()):
        if theirs.get(index) != ours.get(index):
            there, here = (
                repr(one[index]) if index in one else "no token" for one in (theirs, ours)
            )
            raise ConversionError(
                f"config.distil.teacher={teacher}: token {index} is {there} to the teacher and"
                f" {here} to the student; what it says is of its own tokens: name a teacher with"
                " the student's tokenizer"
            )


def _refuse_unfit(config: Config, teacher: DecoderSettings, num_tokens: int) -> None:
    distil, length = config.distil, config.data.sequence_length
    assert distil is not None
    if length > teacher.max_positions:
        raise ConfigError(
            f"config.distil.teacher={distil.teacher}: was made for at most"
            f" {teacher.max_positions} positions, config.data.sequence_length={length} has more"
        )
    if distil.top_k is not None and distil.top_k > num_tokens:
        raise ConfigError(
            f"config.distil.top_k={distil.top_k}: there are {num_tokens} tokens; None compares all"
        )
