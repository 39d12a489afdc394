"""The typed configuration of a run: every field, its default, its unit and its meaning, once.

A run is a Python file with `def get_config() -> Config`; the command line changes any field:
`--config.section.field=value`.
"""

import dataclasses
import datetime
import math
import types
import typing
from typing import Any, Literal

from jaxsft.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    source: str  # Hugging Face directory, hub id (org/name), .gguf file or run directory
    # "random" reads config.json only and seeds the weights with train.seed.
    weights: Literal["pretrained", "random"] = "pretrained"
    # DIRECTORY or DIRECTORY:step of another run on this source, whose weights this one begins with
    # instead (the newest checkpoint's without a step); --continue_from sets it.
    continue_from: str | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation
    # Dtype in which the parameters are kept; bfloat16 rounds updates below 1/512 of a weight away.
    parameter_dtype: Literal["float32", "bfloat16"] = "float32"
    # Back end; "auto" takes the fastest that passes its test on the devices, or needs none.
    attention: Literal["auto", "splash", "cudnn", "triton", "blocked", "xla"] = "auto"
    # Back end of a mixture's experts; "auto": "ragged" on TPU, "tiled" elsewhere. "triton": kernels
    # for GPUs, tested on the device before they are used; their time is not measured yet.
    experts: Literal["auto", "tiled", "ragged", "triton", "dense"] = "auto"
    # Parts that the backward pass computes again to save memory: "full" all of a layer;
    # "save_context" all but attention, "save_attention" all but attention and its queries, keys and
    # values, "save_projections" no product with a weight. "auto" takes the fastest of these four
    # whose compiled step fits the devices. "none" names nothing to keep: XLA then chooses by
    # itself, keeps more and computes as much again. docs/memory.md has the costs.
    remat: Literal["auto", "none", "save_projections", "save_attention", "save_context", "full"] = (
        "auto"
    )
    # Layers in one turn of their loop, which copies what it keeps of them. None: on a single GPU
    # all of them, as far as that fits; elsewhere one.
    unroll_layers: int | None = None
    # Control tokens that the tokenizer lacks, such as those of a ChatML template; they get the ids
    # after its last one, and rows in the embedding and the head.
    new_tokens: tuple[str, ...] = ()
    # Their rows: the mean of the trained ones; "normal" adds noise with the trained rows' spread.
    new_token_init: Literal["mean", "normal"] = "mean"
    # Rows fill up to a multiple of this with padding, which is never predicted; in an export it is
    # rows like any other, at the mean of all, which is never the likeliest.
    pad_vocab_to: int = 1
    # Tokens that the template writes but that were never trained; "repair" sets their rows to the
    # mean of the trained ones with a little noise.
    dead_rows: Literal["warn", "repair"] = "warn"


Format = Literal[
    "auto",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "question_answer",
    "text",
    "tokenized",
]
Part = Literal["content", "reasoning", "tool_calls", "tool_results", "end_of_turn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    # .jsonl, .jsonl.gz, .jsonl.zst, .json, .parquet or .array_record; local or gs://; a pattern
    # such as data/*.jsonl for many; hub://owner/name for a data set of the hub
    path: str
    format: Format = "auto"  # "auto" looks at the first row's keys
    name: str | None = None  # in metrics and reports; the file's stem when None
    # How often an epoch sees each example; 0.5: every other epoch. At most one of weight and count.
    weight: float | None = None
    count: int | None = None  # examples in an epoch
    columns: dict[str, str] = dataclasses.field(default_factory=dict)  # the format's key -> theirs
    ignore: tuple[str, ...] = ()  # columns to take for not there, such as ("chosen", "rejected")
    subset: str | None = None  # of a hub data set
    split: str = "train"  # of a hub data set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    train: tuple[Source, ...]
    sequence_length: int  # tokens in a packed row
    eval: tuple[Source, ...] = ()
    # Which assistant turns carry loss; "weighted_turns": those whose message has a weight.
    train_on: Literal["all_turns", "last_turn", "weighted_turns"] = "all_turns"
    # Parts of a turn that carry loss; "tool_results" are a tool's words: no model writes them.
    train_parts: tuple[Part, ...] = ("content", "reasoning", "tool_calls", "end_of_turn")
    # A conversation longer than sequence_length; "truncate" leaves out its oldest turns but keeps
    # the system message and the last turn whole.
    overlong: Literal["drop", "truncate", "error"] = "drop"
    bad_rows: Literal["error", "skip"] = "error"
    max_bad_rows: int = 20  # listed before giving up; with "skip", more than this many is an error
    cache_dir: str | None = None  # None: $XDG_CACHE_HOME/jaxsft or ~/.cache/jaxsft
    workers: int | None = None  # processes that prepare; None: one for each core
    tokenizer: str | None = None  # a directory; None: the model's own
    template: str | None = None  # a .jinja file; None: the tokenizer's own
    # Variables of the template, as {"enable_thinking": False}; a row's chat_template_kwargs win.
    template_options: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    template_date: str | None = None  # YYYY-MM-DD that a template writes; None: of the first start
    # Control tokens that an assistant's text may hold as such, like "<think>"; else they are text.
    trusted_control_tokens: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices along each mesh axis; None: what the other axes leave.

    With `data` and `fsdp` both None, each slice (or box) has a replica, over its own devices.
    """

    data: int | None = None  # replicas of the parameters; the only axis that crosses a network well
    fsdp: int | None = None  # parameters, optimizer state and batch are split
    context: int = 1  # positions of a row
    expert: int = 1  # experts of a mixture, and the batch of all that is no expert
    tensor: int = 1  # heads and MLP columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    peak_lr: float
    name: Literal["adamw"] = "adamw"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    final_lr_fraction: float = 0.1  # of peak_lr, reached at the last step
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # not applied to norm scales
    max_grad_norm: float | None = 1.0  # global norm; None: no clipping
    max_skipped_steps: int = 3  # in a row, loss or gradients not finite: the run has diverged, 71
    # As gradients leave the backward pass; those of micro-batches are added in it. Their norm and
    # the update are computed in float32. bfloat16 saves 2 bytes a parameter.
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    # Dtype in which Adam's mean of gradients is kept. The mean of their squares is always float32:
    # bfloat16 would lose its changes, which are 1/512 of it and less.
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    batch_size: int  # packed rows in one optimizer step, over all devices and hosts
    epochs: int | None = None  # exactly one of epochs and steps
    steps: int | None = None
    microbatches: int = 1  # the batch is computed in this many parts
    seed: int = 0  # of data order and random weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    save_every_steps: int | None = None  # None: only at the end and on a termination signal
    keep: int = 2  # newest checkpoints kept
    export: bool = True  # write <workdir>/export when training ends
    # Dtype of the exported weights; "source": each as in the base.
    export_dtype: Literal["source", "float32", "bfloat16", "float16"] = "source"
    check_export: bool = False  # compare its logits with transformers'; needs torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    # Loss on data.eval; None: before the first and after the last step only.
    every_steps: int | None = None
    # Packed rows; None: train.batch_size, or fewer where they hold all rows of the largest set.
    batch_size: int | None = None
    # Held-out prompts answered before and after, from the first conversational eval source.
    prompts: int = 0
    max_new_tokens: int = 128  # per answer
    # How an answer is compared with the reference answer.
    match: Literal["exact", "json"] | None = None
    instruction: str | None = None  # a system message; the untrained model is also measured with it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    every_steps: int = 1  # one line in metrics.jsonl, means over the steps since the last


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    model: Model
    data: Data
    optim: Optim
    train: Train
    mesh: Mesh = Mesh()
    checkpoint: Checkpoint = Checkpoint()
    eval: Eval = Eval()
    log: Log = Log()


def validate(config: Config) -> None:
    """Checks what one field alone cannot show.

    Raises:
        ConfigError: naming the fields, their values and what would be right.
    """
    _check_types(config, "config")
    _check_positive(config)
    _check_new_tokens(config.model.new_tokens)
    if config.model.continue_from is not None and not config.model.continue_from.strip():
        raise ConfigError(
            f"config.model.continue_from={config.model.continue_from!r}: expected the directory of"
            " a run, or DIRECTORY:step"
        )
    _check_train(config.train)
    _check_optim(config.optim)
    _check_data(config.data)
    if config.eval.prompts < 0:
        raise ConfigError(f"config.eval.prompts={config.eval.prompts}: must be 0 or more")
    if config.eval.prompts and not config.data.eval:
        raise ConfigError(
            f"config.eval.prompts={config.eval.prompts}: data.eval is empty, nothing can be asked"
        )


def _check_positive(config: Config) -> None:
    positive = {
        "model.pad_vocab_to": config.model.pad_vocab_to,
        "model.unroll_layers": config.model.unroll_layers,
        "train.epochs": config.train.epochs,
        "train.steps": config.train.steps,
        "train.batch_size": config.train.batch_size,
        "train.microbatches": config.train.microbatches,
        "data.sequence_length": config.data.sequence_length,
        "data.max_bad_rows": config.data.max_bad_rows,
        "data.workers": config.data.workers,
        "checkpoint.save_every_steps": config.checkpoint.save_every_steps,
        "checkpoint.keep": config.checkpoint.keep,
        "eval.every_steps": config.eval.every_steps,
        "eval.batch_size": config.eval.batch_size,
        "eval.max_new_tokens": config.eval.max_new_tokens,
        "log.every_steps": config.log.every_steps,
        "optim.peak_lr": config.optim.peak_lr,
        "optim.eps": config.optim.eps,
        "optim.max_grad_norm": config.optim.max_grad_norm,
        "optim.max_skipped_steps": config.optim.max_skipped_steps,
        **{f"mesh.{axis}": size for axis, size in dataclasses.asdict(config.mesh).items()},
    }
    for name, value in positive.items():
        if value is not None and not 0 < value < math.inf:  # also false for nan
            raise ConfigError(f"config.{name}={value}: must be finite and greater than 0")


def _check_new_tokens(tokens: tuple[str, ...]) -> None:
    if len(set(tokens)) != len(tokens) or not all(token.strip() for token in tokens):
        raise ConfigError(
            f"config.model.new_tokens={tokens}: each must be there once, and be more than space"
        )


def _check_train(train: Train) -> None:
    if (train.epochs is None) == (train.steps is None):
        raise ConfigError(
            f"config.train: epochs={train.epochs} and steps={train.steps};"
            " set exactly one of them (the other None)"
        )
    if train.batch_size % train.microbatches:
        raise ConfigError(
            f"config.train.microbatches={train.microbatches}:"
            f" does not divide train.batch_size={train.batch_size}"
        )


def _check_optim(optim: Optim) -> None:
    if optim.warmup_steps < 0:
        raise ConfigError(f"config.optim.warmup_steps={optim.warmup_steps}: must be 0 or more")
    if not 0 <= optim.weight_decay < math.inf:
        raise ConfigError(f"config.optim.weight_decay={optim.weight_decay}: must be 0 or more")
    if not 0 <= optim.final_lr_fraction <= 1:
        raise ConfigError(
            f"config.optim.final_lr_fraction={optim.final_lr_fraction}: must lie in [0, 1]"
        )
    for name, value in (("b1", optim.b1), ("b2", optim.b2)):
        if not 0 <= value < 1:
            raise ConfigError(f"config.optim.{name}={value}: must lie in [0, 1)")


def _check_data(data: Data) -> None:
    if data.sequence_length < 2:
        raise ConfigError(
            f"config.data.sequence_length={data.sequence_length}:"
            " a target needs a token before it; must be 2 or more"
        )
    if data.cache_dir is not None and "://" in data.cache_dir:
        raise ConfigError(
            f"config.data.cache_dir={data.cache_dir}: is mapped into memory, which needs a local"
            " disk or a mount that the hosts share; the path of a Source may be a URL"
        )
    if not data.train:
        raise ConfigError("config.data.train=(): at least one Source is needed")
    for kind in ("train", "eval"):
        for index, source in enumerate(getattr(data, kind)):
            here = f"config.data.{kind}[{index}]"
            given = {"weight": source.weight, "count": source.count}
            for name, value in given.items():
                if value is not None and not 0 < value < math.inf:
                    raise ConfigError(f"{here}.{name}={value}: must be finite and greater than 0")
            if None not in given.values():
                raise ConfigError(
                    f"{here}: weight={source.weight} and count={source.count}; set one"
                )
            if kind == "eval" and (source.weight, source.count) != (None, None):
                raise ConfigError(f"{here}: weight and count are for training; evaluation sees all")
    if data.template_date is not None and not _is_date(data.template_date):
        raise ConfigError(f"config.data.template_date={data.template_date}: expected YYYY-MM-DD")
    if not data.train_parts or len(set(data.train_parts)) < len(data.train_parts):
        raise ConfigError(
            f"config.data.train_parts={data.train_parts}: must name at least one part, each once"
        )


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _check_types(value: Any, name: str) -> None:
    """Every field holds what its annotation says; reports the first that doesn't by its name."""
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if not is_instance(item, hints[field.name]):
            raise ConfigError(
                f"{name}.{field.name}={item!r}: expected {type_name(hints[field.name])},"
                f" got {type(item).__name__}"
            )
        for index, part in enumerate(item if isinstance(item, tuple) else (item,)):
            if dataclasses.is_dataclass(part):
                suffix = f"[{index}]" if isinstance(item, tuple) else ""
                _check_types(part, f"{name}.{field.name}{suffix}")


def is_instance(value: object, hint: Any) -> bool:
    """Whether `value` is what the annotation of a field says."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in args
    if origin is types.UnionType or origin is typing.Union:
        return any(is_instance(value, arg) for arg in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(is_instance(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            is_instance(key, args[0]) and is_instance(item, args[1]) for key, item in value.items()
        )
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def type_name(hint: object) -> str:
    """The annotation as a user would write it: `int or None`, `one of 'a', 'b'`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is types.UnionType or origin is typing.Union:
        return " or ".join(type_name(arg) for arg in args)
    if origin is tuple:
        return f"a tuple of {type_name(args[0])}"
    if origin is dict:
        return f"a dict of {type_name(args[0])} to {type_name(args[1])}"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def from_dict(values: dict[str, Any]) -> Config:
    """The config that `dataclasses.asdict` turned into `values`, as a run's config.json holds it.

    Raises:
        ConfigError: a field that is missing, unknown or of another type.
    """
    config: Config = _from_value(Config, values, "config")
    _check_types(config, "config")
    return config


def _from_value(hint: Any, value: Any, name: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{name}={value!r}: expected the fields of {hint.__name__}")
        hints = typing.get_type_hints(hint)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise ConfigError(f"{name}.{min(unknown)}: {hint.__name__} has no such field")
        try:
            return hint(**{k: _from_value(hints[k], v, f"{name}.{k}") for k, v in value.items()})
        except TypeError as error:
            raise ConfigError(f"{name}: {error}") from None
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_from_value(typing.get_args(hint)[0], item, name) for item in value)
    return value
