"""What one field of a config alone cannot show."""

import dataclasses
import math

from jaxsft.config.data_rules import check_data
from jaxsft.config.distil import Distil
from jaxsft.config.log_rules import check_log
from jaxsft.config.lora import Lora
from jaxsft.config.loss import Loss
from jaxsft.config.optim import Group, Optim
from jaxsft.config.run import Config, Eval, Train
from jaxsft.config.values import check_float32, check_types
from jaxsft.errors import ConfigError


def validate(config: Config) -> None:
    """Checks what one field alone cannot show.

    Raises:
        ConfigError: naming the fields, their values and what would be right.
    """
    check_types(config, "config")
    _check_positive(config)
    check_float32(dataclasses.asdict(config), "config")
    _check_new_tokens(config.model.new_tokens)
    if config.model.continue_from is not None and not config.model.continue_from.strip():
        raise ConfigError(
            f"config.model.continue_from={config.model.continue_from!r}: expected the directory of"
            " a run, or DIRECTORY:step"
        )
    _check_train(config.train)
    _check_optim(config.optim)
    _check_loss(config.loss)
    if config.distil is not None:
        _check_distil(config.distil)
    _check_new_rows(config)
    check_data(config.data)
    if config.model.adapter is not None and config.model.weights == "random":
        raise ConfigError(
            f"config.model.weights=random: config.model.adapter={config.model.adapter} was trained"
            " on pretrained ones"
        )
    if config.lora is not None:
        _check_lora(config.lora)
        if config.model.adapter is not None:
            raise ConfigError(
                f"config.model.adapter={config.model.adapter}: brings its own rank and targets;"
                " leave config.lora out"
            )
    elif config.checkpoint.merge and config.model.adapter is None:
        raise ConfigError(
            "config.checkpoint.merge=True: there is no adapter to merge; set config.lora, or leave"
            " it out"
        )
    _check_spacing(config)
    _check_best(config)
    for name in ("prompts", "shots"):
        if getattr(config.eval, name) < 0:
            raise ConfigError(f"config.eval.{name}={getattr(config.eval, name)}: must be 0 or more")
    _check_answers(config.eval)
    check_log(config.log)
    if config.eval.prompts and not config.data.eval and config.data.holdout is None:
        raise ConfigError(
            f"config.eval.prompts={config.eval.prompts}: data.eval is empty and data.holdout None:"
            " nothing can be asked"
        )


def _check_positive(config: Config) -> None:
    positive = {
        "model.pad_vocab_to": config.model.pad_vocab_to,
        "model.unroll_layers": config.model.unroll_layers,
        "train.epochs": config.train.epochs,
        "train.steps": config.train.steps,
        "train.batch_size": config.train.batch_size,
        "train.microbatches": config.train.microbatches,
        "train.sdc_check_every_steps": config.train.sdc_check_every_steps,
        "data.sequence_length": config.data.sequence_length,
        "data.max_bad_rows": config.data.max_bad_rows,
        "data.workers": config.data.workers,
        "checkpoint.save_every_minutes": config.checkpoint.save_every_minutes,
        "checkpoint.save_every_steps": config.checkpoint.save_every_steps,
        "checkpoint.save_times_per_epoch": config.checkpoint.save_times_per_epoch,
        "checkpoint.keep": config.checkpoint.keep,
        "checkpoint.keep_every_steps": config.checkpoint.keep_every_steps,
        "checkpoint.grace_seconds": config.checkpoint.grace_seconds,
        "eval.every_steps": config.eval.every_steps,
        "eval.times_per_epoch": config.eval.times_per_epoch,
        "eval.early_stopping": config.eval.early_stopping,
        "eval.batch_size": config.eval.batch_size,
        "eval.max_new_tokens": config.eval.max_new_tokens,
        "eval.answer_every_steps": config.eval.answer_every_steps,
        "log.every_steps": config.log.every_steps,
        "log.processes_every_steps": config.log.processes_every_steps,
        "log.spike_deviations": config.log.spike_deviations,
        "log.price_per_hour": config.log.price_per_hour,
        "optim.peak_lr": config.optim.peak_lr,
        "optim.eps": config.optim.eps,
        "optim.max_grad_norm": config.optim.max_grad_norm,
        "optim.max_skipped_steps": config.optim.max_skipped_steps,
        "loss.neftune_alpha": config.loss.neftune_alpha,
        "optim.last_layers": config.optim.last_layers,
        **{f"mesh.{axis}": size for axis, size in dataclasses.asdict(config.mesh).items()},
    }
    for name, value in positive.items():
        if value is not None and not 0 < value < math.inf:  # also false for nan
            raise ConfigError(f"config.{name}={value}: must be finite and greater than 0")


def _check_spacing(config: Config) -> None:
    save, evaluate = config.checkpoint, config.eval
    for section, every, steps, times in (
        ("checkpoint", "save_", save.save_every_steps, save.save_times_per_epoch),
        ("eval", "", evaluate.every_steps, evaluate.times_per_epoch),
    ):
        if steps is not None and times is not None:
            raise ConfigError(
                f"config.{section}: {every}every_steps={steps} and {every}times_per_epoch={times};"
                " set one of them (the other None)"
            )


def _check_best(config: Config) -> None:
    best, evaluate = config.checkpoint.best, config.eval
    if not 0 <= evaluate.min_improvement < math.inf:
        raise ConfigError(
            f"config.eval.min_improvement={evaluate.min_improvement}: must be finite, and 0 or more"
        )
    if best is None:
        if evaluate.early_stopping is not None:
            raise ConfigError(
                f"config.eval.early_stopping={evaluate.early_stopping}: needs the figure to follow,"
                " such as config.checkpoint.best=eval/holdout/loss"
            )
        if config.checkpoint.best_mode is not None:
            raise ConfigError(
                f"config.checkpoint.best_mode={config.checkpoint.best_mode}: config.checkpoint.best"
                " names no figure that it could be of"
            )
    elif evaluate.every_steps is None and evaluate.times_per_epoch is None:
        raise ConfigError(
            f"config.checkpoint.best={best}: nothing is evaluated before the end; set"
            " config.eval.times_per_epoch or config.eval.every_steps"
        )


def _check_answers(evaluate: Eval) -> None:
    """What is about answers needs some."""
    every = evaluate.answer_every_steps
    if every is not None and (evaluate.every_steps, evaluate.times_per_epoch) == (None, None):
        raise ConfigError(
            f"config.eval.answer_every_steps={every}: nothing is evaluated before the end; set"
            " config.eval.times_per_epoch or config.eval.every_steps"
        )
    for name in ("harmful_requests", "harmless_requests"):
        if getattr(evaluate, name) is not None and not evaluate.refusal:
            raise ConfigError(f"config.eval.{name}={getattr(evaluate, name)}: set refusal=True too")
    for name in ("scorers", "answer_every_steps", "shots"):
        value = getattr(evaluate, name)
        if value and not evaluate.prompts:
            raise ConfigError(
                f"config.eval.{name}={value!r}: config.eval.prompts=0: there are no answers"
            )


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


def _check_loss(loss: Loss) -> None:
    for name in ("z_loss", "router_z", "router_balance"):
        value = getattr(loss, name)
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"config.loss.{name}={value}: must be finite, and 0 or more")
    for source, factor in loss.source_weights.items():
        if not 0 < factor < math.inf:
            raise ConfigError(
                f"config.loss.source_weights={{{source!r}: {factor}}}: must be finite and greater"
                " than 0; to leave a source out, take it out of config.data.train"
            )
    if not 0 <= loss.label_smoothing < 1:
        raise ConfigError(
            f"config.loss.label_smoothing={loss.label_smoothing}: is a share; must lie in [0, 1)"
        )
    if loss.label_smoothing and loss.kind == "dft":
        raise ConfigError(
            f"config.loss.label_smoothing={loss.label_smoothing}: kind='dft' has a target's own"
            " probability as its weight and none for other tokens; set label_smoothing=0 or"
            " kind='cross_entropy'"
        )


def _check_distil(distil: Distil) -> None:
    if distil.teacher is None:
        _check_stored(distil)
    elif not distil.teacher.strip():
        raise ConfigError(
            f"config.distil.teacher={distil.teacher!r}: name the model to learn from: a directory,"
            " a hub id or a run"
        )
    if not 0 <= distil.alpha < 1:
        raise ConfigError(
            f"config.distil.alpha={distil.alpha}: is the share of the targets' own loss; must lie"
            " in [0, 1): with 1 the teacher counts nothing, so leave config.distil out"
        )
    if not 0 < distil.temperature < math.inf:
        raise ConfigError(
            f"config.distil.temperature={distil.temperature}: must be finite and greater than 0"
        )
    if distil.top_k is not None and distil.top_k < 1:
        raise ConfigError(
            f"config.distil.top_k={distil.top_k}: must be 1 or more; None compares the whole"
            " vocabulary"
        )


def _check_stored(distil: Distil) -> None:
    """A teacher whose words stand in the rows, which are what they are."""
    if distil.top_k is None:
        raise ConfigError(
            "config.distil.teacher=None: name the model to learn from, a directory, a hub id or a"
            " run; or, where the rows have teacher_ids and teacher_logprobs, say with"
            " config.distil.top_k how many of them to take for a target"
        )
    if distil.temperature != 1:
        raise ConfigError(
            f"config.distil.temperature={distil.temperature}: the log-probabilities in rows are"
            " those of temperature 1, from which those of another can't be told; set 1, or name a"
            " model in config.distil.teacher"
        )
    if distil.dtype != "source":
        raise ConfigError(
            f"config.distil.dtype={distil.dtype}: is of a teacher's weights, but"
            " config.distil.teacher=None names no model"
        )


def _check_lora(lora: Lora) -> None:
    ranks = {"rank": lora.rank} | {f"ranks[{name!r}]": rank for name, rank in lora.ranks.items()}
    for name, value in ranks.items():
        if value < 1:
            raise ConfigError(f"config.lora.{name}={value}: must be 1 or more")
    for name, value in (("alpha", lora.alpha), ("lr_ratio", lora.lr_ratio)):
        if not 0 < value < math.inf:
            raise ConfigError(f"config.lora.{name}={value}: must be finite and greater than 0")
    if not 0 <= lora.dropout < 1:
        raise ConfigError(
            f"config.lora.dropout={lora.dropout}: is a share of numbers; must lie in [0, 1)"
        )
    if lora.init == "pissa" and (lora.dora or lora.dropout):
        other = "dora=True" if lora.dora else f"dropout={lora.dropout}"
        raise ConfigError(
            f"config.lora.init=pissa: not with {other}, as a part of the weight itself is trained:"
            " set init=default, or leave that out"
        )
    if lora.targets is not None and not lora.targets:
        raise ConfigError(
            "config.lora.targets=(): nothing would get an adapter; None targets all matrices of"
            " attention, MLP and experts"
        )
