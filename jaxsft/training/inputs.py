"""What a run is made from: the opened model, its tokenizer, the prepared data."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from jaxsft.config import Config, Source
from jaxsft.convert import new_tokenizer, new_tokens, pretrained, source
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache.divided import HOLDOUT, divided
from jaxsft.data.cache.prepare import Maker, prepare, source_names
from jaxsft.data.cache.store import Cache
from jaxsft.devices import progress
from jaxsft.errors import ConfigError
from jaxsft.files.caches import cache_root
from jaxsft.terminal.console import Console

Say = Callable[[str, str], None]


@dataclasses.dataclass(frozen=True)
class PreparedData:
    tokenizer_directory: str
    train: Cache
    eval: dict[str, Cache]  # by the source's name; what data.holdout takes is "holdout"


@progress.during(progress.OPENING)
def open_model(config: Config, say: Say, weights: bool = True) -> Pretrained:
    """The model's files, read and checked but for the weights themselves.

    Args:
        weights: whether they are needed at all, as they are not to prepare data.
    """
    base = pretrained.open_pretrained(
        config.model.source, weights=weights and config.model.weights == "pretrained"
    )
    for note in base.notes:
        say("model", f"note: {note}")
    longest = base.settings.max_positions
    if config.data.sequence_length > longest:
        raise ConfigError(
            f"config.data.sequence_length={config.data.sequence_length}: {config.model.source} was"
            f" made for at most {longest} positions"
        )
    return _with_new_rows(config, base, say)


def _with_new_rows(config: Config, base: Pretrained, say: Say) -> Pretrained:
    """The model with a row for each of config.model.new_tokens, and with padding."""
    model, rows = config.model, base.settings.vocab_size
    own = None
    if model.new_tokens:
        data = config.data
        own = source.tokenizer_directory(model.source, data.tokenizer, data.cache_dir)
    planned = new_tokens.plan(own, model.new_tokens, rows, model.pad_vocab_to)
    if not planned.ids and planned.rows == rows:
        return base
    if planned.ids:
        added = ", ".join(f"{token!r} is {index}" for token, index in planned.ids.items())
        say("model", f"new tokens: {added}")
    padding = planned.rows - planned.num_tokens
    say("model", f"vocabulary: {rows} rows before, {planned.rows} now, {padding} of them padding")
    return new_tokens.extended(base, planned, model.new_token_init, config.train.seed)


def tokenizer_directory(config: Config) -> Path:
    """The tokenizer trained with: the chosen one or the model's own, with config.model.new_tokens.

    Each program finds the same directory.
    """
    model, data = config.model, config.data
    directory = source.tokenizer_directory(model.source, data.tokenizer, data.cache_dir)
    if not model.new_tokens:
        return directory
    parent = cache_root(data.cache_dir) / "tokenizers"
    return new_tokenizer.cached(directory, model.new_tokens, parent)


@progress.during("preparing data")
def prepare_data(
    config: Config, base: Pretrained, console: Console, make: Maker | None = None
) -> PreparedData:
    """The caches of train and eval data, made where they are missing.

    Args:
        make: makes what is missing; None: processes of this machine do.
    """
    data = config.data
    directory = str(tokenizer_directory(config))

    def cache_of(sources: tuple[Source, ...], name: str) -> Cache:
        with console.counting(f"preparing {name}") as count:
            told = progress.marking(count)
            return prepare(sources, data, directory, told, base.settings.num_tokens, make)

    names = source_names(data.eval)
    if data.holdout is not None and HOLDOUT in names:
        raise ConfigError(
            f"config.data.eval[{names.index(HOLDOUT)}].name={HOLDOUT}: so is the set called that"
            f" config.data.holdout={data.holdout} makes; give the source another name"
        )
    train, held_out = divided(cache_of(data.train, "train"), data)
    evals = {name: cache_of((one,), name) for name, one in zip(names, data.eval, strict=True)}
    return PreparedData(
        directory, train, evals if held_out is None else {HOLDOUT: held_out, **evals}
    )


def data_facts(data: PreparedData) -> dict[str, str]:
    """What processes that prepared on disks of their own must have in common."""
    evals = {f"the prepared data of eval {n}": cache.fingerprint for n, cache in data.eval.items()}
    return {"the prepared training data": data.train.fingerprint} | evals
