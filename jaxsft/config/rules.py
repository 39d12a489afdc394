"""What one field of a config alone cannot show."""

import dataclasses
import datetime
import math

from jaxsft.config.data import Data
from jaxsft.config.optim import Group, Optim
from jaxsft.config.run import Config, Train
from jaxsft.config.values import check_types
from jaxsft.errors import ConfigError


def validate(config: Config) -> None:
    """Checks what one field alone cannot show.

    Raises:
        ConfigError: naming the fields, their values and what would be right.
    """
    check_types(config, "config")
    _check_positive(config)
    _check_new_tokens(config.model.new_tokens)
    if config.model.continue_from is not None and not config.model.continue_from.strip():
        raise ConfigError(
            f"config.model.continue_from={config.model.continue_from!r}: expected the directory of"
            " a run, or DIRECTORY:step"
        )
    _check_train(config.train)
    _check_optim(config.optim)
    _check_new_rows(config)
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
        "optim.last_layers": config.optim.last_layers,
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


def _check_new_rows(config: Config) -> None:
    for index, group in enumerate(config.optim.groups):
        if group.rows == "new_tokens" and not config.model.new_tokens:
            raise ConfigError(
                f"config.optim.groups[{index}].rows=new_tokens: config.model.new_tokens names none"
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
    _check_schedule(optim)
    if not 0 <= optim.weight_decay < math.inf:
        raise ConfigError(f"config.optim.weight_decay={optim.weight_decay}: must be 0 or more")
    for name in ("b1", "b2", "lion_b2", "muon_momentum", "sgd_momentum"):
        value = getattr(optim, name)
        if not 0 <= value < 1:
            raise ConfigError(f"config.optim.{name}={value}: must lie in [0, 1)")
    if optim.layer_decay is not None and not 0 < optim.layer_decay <= 1:
        raise ConfigError(f"config.optim.layer_decay={optim.layer_decay}: must lie in (0, 1]")
    if optim.ema_decay is not None and not 0 < optim.ema_decay < 1:
        raise ConfigError(f"config.optim.ema_decay={optim.ema_decay}: must lie in (0, 1)")
    if optim.ema_decay is None and not optim.ema_is_result:
        raise ConfigError(
            "config.optim.ema_is_result=False: config.optim.ema_decay=None has no mean"
        )
    for index, group in enumerate(optim.groups):
        _check_group(group, f"config.optim.groups[{index}]")


def _check_schedule(optim: Optim) -> None:
    steps, share = optim.warmup_steps, optim.warmup_share
    if steps is not None and share is not None:
        raise ConfigError(
            f"config.optim: warmup_steps={steps} and warmup_share={share}; set one of them"
        )
    if steps is not None and steps < 0:
        raise ConfigError(f"config.optim.warmup_steps={steps}: must be 0 or more")
    if share is not None and not 0 <= share < 1:
        raise ConfigError(f"config.optim.warmup_share={share}: must lie in [0, 1)")
    if optim.schedule == "inverse_sqrt" and 0 in (steps, share):
        name = "warmup_steps" if steps == 0 else "warmup_share"
        raise ConfigError(
            f"config.optim.{name}=0: inverse_sqrt falls from the end of the warm-up on, by its"
            " length; must be more than 0"
        )
    if not 0 <= optim.final_lr_fraction <= 1:
        raise ConfigError(
            f"config.optim.final_lr_fraction={optim.final_lr_fraction}: must lie in [0, 1]"
        )
    if not 0 < optim.decay_share < 1:
        raise ConfigError(f"config.optim.decay_share={optim.decay_share}: must lie in (0, 1)")


def _check_group(group: Group, here: str) -> None:
    if not group.pattern.strip():
        raise ConfigError(f"{here}.pattern={group.pattern!r}: expected a path or a logical name")
    for name, value in (("lr_factor", group.lr_factor), ("weight_decay", group.weight_decay)):
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"{here}.{name}={value}: must be finite and 0 or more")
    if group.frozen and (group.lr_factor, group.weight_decay, group.rows) != (1.0, None, "all"):
        raise ConfigError(
            f"{here}: frozen=True and lr_factor={group.lr_factor},"
            f" weight_decay={group.weight_decay}, rows={group.rows}; what is frozen has none"
        )


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
