"""From a config to all that the training loop needs: caches, mesh, compiled steps, first state."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxsft import distributed, preflight, program, step
from jaxsft.config import Config, Source
from jaxsft.console import Console
from jaxsft.convert import new_tokenizer, new_tokens, pretrained, source
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache import Cache
from jaxsft.data.epochs import epochs_of
from jaxsft.data.loader import Batches
from jaxsft.data.prepare import Maker, cache_root, prepare, source_names
from jaxsft.errors import ConfigError
from jaxsft.mesh import parts
from jaxsft.model import dead_rows, state, vocabulary
from jaxsft.model.state import Params
from jaxsft.step import TrainState

Say = Callable[[str, str], None]


@dataclasses.dataclass(frozen=True)
class Data:
    tokenizer_directory: str
    train: Cache
    eval: dict[str, Cache]  # by the source's name


@dataclasses.dataclass(frozen=True)
class Setup:
    program: program.Program
    batches: Batches
    eval_batches: dict[str, Batches]
    num_steps: int


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
        own = source.tokenizer_directory(model.source, config.data.tokenizer)
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
    directory = source.tokenizer_directory(config.model.source, config.data.tokenizer)
    if not config.model.new_tokens:
        return directory
    parent = cache_root(config.data.cache_dir) / "tokenizers"
    return new_tokenizer.cached(directory, config.model.new_tokens, parent)


def prepare_data(
    config: Config, base: Pretrained, console: Console, make: Maker | None = None
) -> Data:
    """The caches of train and eval data, made where they are missing.

    Args:
        make: makes what is missing; None: processes of this machine do.
    """
    data = config.data
    directory = str(tokenizer_directory(config))

    def cache_of(sources: tuple[Source, ...], name: str) -> Cache:
        with console.counting(f"preparing {name}") as count:
            return prepare(sources, data, directory, count, base.settings.num_tokens, make)

    names = source_names(data.eval)
    train = cache_of(data.train, "train")
    evals = {name: cache_of((one,), name) for name, one in zip(names, data.eval, strict=True)}
    return Data(directory, train, evals)


def data_facts(data: Data) -> dict[str, str]:
    """What processes that prepared on disks of their own must have in common."""
    evals = {f"the prepared data of eval {n}": cache.fingerprint for n, cache in data.eval.items()}
    return {"the prepared training data": data.train.fingerprint} | evals


def set_up(config: Config, base: Pretrained, data: Data) -> Setup:
    """Everything static: nothing here allocates a parameter.

    Raises:
        ConfigError: model, mesh, batch and schedule don't fit each other.
    """
    train, length = config.train, config.data.sequence_length
    mesh = program.checked_mesh(config, base.settings)

    def batches(cache: Cache, rows: int, sources: tuple[Source, ...] | None = None) -> Batches:
        return Batches(
            cache,
            sources=sources,
            sequence_length=length,
            batch_size=rows,
            seed=train.seed,
            sharding=step.batch_sharding(mesh),
            windows={kind.window for kind in base.settings.kinds()},
        )

    train_batches = batches(data.train, train.batch_size, config.data.train)
    num_steps = preflight.steps_of_run(config, train_batches.epochs)
    eval_rows = config.eval.batch_size or _eval_batch_size(config, data, mesh)
    return Setup(
        program=program.build(config, base.settings, num_steps, mesh),
        batches=train_batches,
        eval_batches={name: batches(cache, eval_rows) for name, cache in data.eval.items()},
        num_steps=num_steps,
    )


def _eval_batch_size(config: Config, data: Data, mesh: Mesh) -> int:
    """That of training, or what holds all rows of the largest set: a batch above it is padding."""
    train, shares = config.train, parts("batch", mesh.shape)
    length = config.data.sequence_length
    most = max(
        (
            epochs_of(cache, None, sequence_length=length, batch_size=1, seed=train.seed).num_rows
            for cache in data.eval.values()
        ),
        default=1,
    )
    return min(train.batch_size, -(-most // shares) * shares)


def eval_notes(config: Config, setup: Setup) -> list[str]:
    """What an evaluation's batch that was asked for has beside rows."""
    asked, rows = config.eval.batch_size, [b.epochs.num_rows for b in setup.eval_batches.values()]
    shares = parts("batch", setup.program.mesh.shape)
    enough = -(-max(rows, default=1) // shares) * shares
    if asked is None or asked <= enough:
        return []
    return [
        f"warning: config.eval.batch_size={asked} is more than the {max(rows, default=0):,} packed"
        f" rows of the largest set: the rest is padding; {enough} holds all of them"
    ]


def first_state(
    config: Config,
    base: Pretrained,
    setup: Setup,
    data: Data,
    say: Say,
    params: Params | None = None,
) -> TrainState:
    """The state before step 0: pretrained or random parameters, fresh optimizer.

    Args:
        params: of another run, to begin with instead.
    """
    placement, kept = setup.program.placement.params, config.model.parameter_dtype
    if params is not None:
        pass
    elif config.model.weights == "random":
        params = state.random_params(base.settings, config.train.seed, placement, kept)
    else:
        # Each process reads its own part of the files.
        params = distributed.together(lambda: pretrained.read_params(base, placement, kept))
        params = _without_dead_rows(config, base, params, data, say)
    init = functools.partial(step.init_opt_state, setup.program.recipe)
    opt_state = jax.jit(init, out_shardings=setup.program.placement.opt_state)(params)
    return TrainState(_scalar(setup), params, opt_state, _scalar(setup))


def precision_notes(config: Config, base: Pretrained) -> list[str]:
    """What bfloat16 parameters lose, at load and in training."""
    kept, rate = config.model.parameter_dtype, config.optim.peak_lr
    if kept == "float32":
        return []
    # Of 8 bits: half a step is 2**-9 to 2**-8 of the number.
    return [
        *(f"note: {note}" for note in pretrained.rounding_notes(base, kept)),
        f"hint: config.model.parameter_dtype={kept} has 8 bits, so an update below 1/512 of its"
        f" weight is lost. Adam's are about config.optim.peak_lr={rate:g}: weights above"
        f" {512 * rate:.2g} will hardly move; float32 loses none",
    ]


def _without_dead_rows(
    config: Config, base: Pretrained, params: Params, data: Data, say: Say
) -> Params:
    """Repairs rows of control tokens that the template writes but that were never trained, or
    warns of them, as config.model.dead_rows says."""
    ids = [i for i in data.train.manifest["control_ids"] if i not in base.new_ids]
    if config.model.dead_rows == "warn":
        found = dead_rows.dead_rows(params, ids, vocabulary.EMBEDDING)
        for tokens, reason in dead_rows.by_reason(found):
            say(
                "model",
                f"warning: the template writes {tokens}, whose embedding was never trained:"
                f" {reason}; inspect_data shows it. Use the template and tokenizer of an instruct"
                " model of this family, a template without it, or"
                " config.model.dead_rows='repair'",
            )
        return params
    for leaf in vocabulary.leaves(params):
        dead = dead_rows.dead_rows(params, ids, leaf)
        if dead:
            params = dead_rows.repaired(params, leaf, list(dead), config.train.seed)
        for tokens, reason in dead_rows.by_reason(dead):
            say(
                "model",
                f"{tokens}: its row of {leaf} was never trained: {reason}; it is the mean of"
                " the trained rows now, with a little noise",
            )
    return params


def _scalar(setup: Setup) -> jax.Array:
    return jax.device_put(jnp.int32(0), setup.program.placement.step)
