"""What makes a run the run that it is: the values that decide its result, and which may differ at
a later start."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxsft.config import Config, Data, Lora, Loss, Model, Optim
from jaxsft.errors import CheckpointError, ConfigError
from jaxsft.model import quantised
from jaxsft.rundir.checkpoint.notes import Change
from jaxsft.terminal.redact import redacted_values

DATA = "prepared training data"
_DATA_FLAG = "data"  # what --allow_changed calls it
# Fields of a section that each start may set anew: they change how a step is computed, seen or
# saved, and its result by rounding at most. Of mesh, checkpoint, eval and log all may.
FREE = {
    "model": ("attention", "experts", "remat", "unroll_layers", "frozen_dtype"),
    "train": ("microbatches", "sdc_check_every_steps"),
    "optim": ("max_skipped_steps",),
    "data": ("eval", "cache_dir", "workers", "max_bad_rows"),
}
FREE_SECTIONS = ("mesh", "checkpoint", "eval", "log")
# Fields of Data that decide which rows are trained on; of the others the prepared data tell.
_DIVISION = ("holdout", "holdout_seed", "duplicates", "share")
# Fields that decide when a run ends: more of it is more of the same data order.
_LENGTHS = ("config.train.epochs", "config.train.steps")
# Not compared with checkpoints from before they were noted.
_NOTED_LATER = ("config.model.dtype",)


def identity(config: Config) -> dict[str, Any]:
    """What of the config must stay the same for a resumed run to be the same run; no secrets, which
    may change."""
    kept = {
        "model": (
            *("source", "weights", "continue_from", "dtype", "parameter_dtype"),
            *("new_token_init", "pad_vocab_to", "dead_rows"),
        ),
        "train": ("batch_size", "epochs", "steps", "seed"),
    }
    values = {
        f"config.{section}.{field}": getattr(getattr(config, section), field)
        for section, fields in kept.items()
        for field in fields
    }
    optim = dataclasses.asdict(config.optim).items()
    values |= {f"config.optim.{name}": v for name, v in optim if name not in FREE["optim"]}
    values |= {f"config.loss.{name}": value for name, value in vars(config.loss).items()}
    values["config.model.adapter"] = config.model.adapter
    # What config.model.adapter brings is known once the model is open: its own path stands for it.
    own = config.lora is not None and config.model.adapter is None
    values["config.lora"] = "set" if own else None
    if config.lora is not None and own:
        values |= {f"config.lora.{name}": v for name, v in _plain(config.lora).items()}
    if config.lora is not None or config.model.frozen_dtype in quantised.KINDS:
        values["config.model.frozen_dtype"] = config.model.frozen_dtype
    values["config.distil"] = None if config.distil is None else "set"
    if config.distil is not None:
        values |= {f"config.distil.{name}": v for name, v in _plain(config.distil).items()}
    values["config.model.new_tokens"] = list(config.model.new_tokens)
    for name in _DIVISION:
        values[f"config.data.{name}"] = getattr(config.data, name)
    values["config.data.sequence_length"] = config.data.sequence_length
    values["config.data.train: weight, count"] = [[s.weight, s.count] for s in config.data.train]
    return redacted_values(values)


def _plain(section: Any) -> dict[str, Any]:
    """Its fields, lists in the place of tuples: as JSON gives them back."""
    values = dataclasses.asdict(section).items()
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Each value that differs from when the run began, but for a length that grew.

    A field of Model, Data, Optim, Loss or Lora that the checkpoint doesn't know came later: it had
    its default then.
    """
    known = _with_defaults(before)
    longer = {one.field for one in extended(before, now)}
    return [
        Change(field=name, before=known.get(name), now=value)
        for name, value in now.items()
        if known.get(name) != value
        and name not in longer
        and not (name in _NOTED_LATER and name not in before)
    ]


def _with_defaults(before: Mapping[str, Any]) -> Mapping[str, Any]:
    defaults = {
        f"config.{section}.{field.name}": field.default
        for section, fields in (("model", Model), ("data", Data), ("optim", Optim))
        for field in dataclasses.fields(fields)
    }
    defaults |= {f"config.loss.{name}": value for name, value in vars(Loss()).items()}
    if before.get("config.lora") == "set":
        defaults |= {f"config.lora.{name}": value for name, value in _plain(Lora()).items()}
    known: dict[str, Any] = {"config.model.new_tokens": [], "config.lora": None}
    known["config.distil"] = None
    # Once, notes kept secrets; and lists in the place of tuples.
    return redacted_values(defaults | known | dict(before))


def extended(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Lengths of the run that grew."""
    pairs = [Change(field=name, before=before.get(name), now=now.get(name)) for name in _LENGTHS]
    return [one for one in pairs if one.before is not None is not one.now > one.before]


def allowed_fields(asked: Sequence[str], now: Mapping[str, Any]) -> frozenset[str]:
    """The names in an identity that `--allow_changed=optim.peak_lr,data` means.

    Args:
        now: the identity of this start.

    Raises:
        ConfigError: a name that is none, with what comes near.
    """
    names = {name.removeprefix("config."): name for name in now if name != DATA}
    names[_DATA_FLAG] = DATA
    for name in asked:
        if name.removeprefix("config.") not in names:
            near = difflib.get_close_matches(name.removeprefix("config."), names, 3, 0.5)
            these = ", ".join(near or sorted(names))
            raise ConfigError(
                f"--allow_changed={name}: decides no result; expected some of {these}"
            )
    return frozenset(names[name.removeprefix("config.")] for name in asked)


def refuse_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], allowed: Collection[str] = ()
) -> None:
    """Raises CheckpointError naming each value that differs from when the run began.

    A run may be made longer.

    Args:
        allowed: names that may differ.
    """
    refused = [one for one in changes(before, now) if one.field not in allowed]
    if not refused:
        return
    lines = [
        f"{one.field} was {one.before!r} when this run began and is {one.now!r} now"
        for one in refused
    ]
    grow = any(one.field in _LENGTHS for one in refused)
    flag = ",".join(
        _DATA_FLAG if one.field == DATA else one.field.removeprefix("config.") for one in refused
    )
    lines.append(
        f"{'epochs and steps may grow; ' if grow else ''}go back to the old values, or use another"
        f" --workdir, with --continue_from=this run to start from its weights; or, for what is"
        f" neither this run nor a new one, --allow_changed={flag}"
    )
    raise CheckpointError("\n".join(lines))
