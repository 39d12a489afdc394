"""How much a message, a part of one, or a token is trained, under the names that data sets use."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from jaxsft.data.conversation import RowError
from jaxsft.data.read.strict_json import clip

NUMBER_KEYS, SWITCH_KEYS = ("weight", "loss_weight", "loss_scale"), ("train", "loss")
# Names that other trainers have for it, with values of their own: never taken for nothing.
OTHER_KEYS = (
    *("training", "train_detail", "trainable", "is_trainable", "train_on", "is_train"),
    *("supervised", "compute_loss", "no_loss", "loss_mask", "mask", "masked", "ignore", "skip"),
)
# Words of data sets for rows, messages and parts that are not to be trained, or that are.
_OFF = frozenset(
    ("deleted", "is_deleted", "exclude", "excluded", "discard", "discarded", "drop", "dropped")
    + ("skip", "ignore", "mask", "masked", "is_masked", "loss_mask", "no_loss", "no_train")
    + ("do_not_train", "dont_train", "untrained", "rejected", "is_rejected", "held_out")
    + ("holdout", "is_holdout", "is_test", "is_eval", "is_validation", "is_val")
)
_ON = frozenset(
    ("training", "trainable", "is_trainable", "is_train", "is_training", "for_training")
    + ("use_for_training", "trained", "supervised", "compute_loss", "keep", "include", "chosen")
)
_NO, _YES = ("false", "no", "n", "0"), ("true", "yes", "y", "1")
# float32 ends at 1e38 and 1e-38: sums over a batch, and squares of them, stay between.
LEAST, MOST = 1e-12, 1e12
WANTED = f"expected a number of 0, or from {LEAST:g} to {MOST:g}"


def is_weight(value: Any) -> bool:
    """Whether the value is a number that stays what it is in float32, and in sums of others."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value == 0 or LEAST <= value <= MOST  # NaN is neither


def is_off(name: str, value: Any) -> bool:
    """Whether a switch of this name, with words joined by _, says that something isn't trained."""
    if isinstance(value, str):
        return value.lower() in (_NO if name in _ON else _YES if name in _OFF else ())
    if isinstance(value, list):
        return name in _OFF and bool(value)
    is_switch = isinstance(value, int | float | Decimal)  # bools are integers
    return is_switch and ((name in _ON and not value) or (name in _OFF and bool(value)))


def weight_of(holder: Mapping[str, Any], where: str) -> float | None:
    """The weight that a message or a part gives itself; None where it gives none.

    Raises:
        RowError: it is no weight, there are two that differ, or it has a name that isn't read.
    """
    weights: dict[str, float] = {}
    for key in NUMBER_KEYS:
        if (weight := holder.get(key)) is not None:
            if not is_weight(weight):
                raise RowError("bad weight", f"{where} has {key} {clip(weight)}; {WANTED}")
            weights[key] = float(weight)
    for key in SWITCH_KEYS:
        if (switch := holder.get(key)) is not None:
            if not isinstance(switch, bool):
                detail = f"{where} has {key} {clip(switch)}; expected true or false"
                raise RowError("bad weight", detail)
            weights[key] = float(switch)
    if len(set(weights.values())) > 1:
        raise RowError("two weights", f"{where} has the weights {weights}; keep one")
    for key, value in holder.items():
        if value is not None and (key in OTHER_KEYS or is_off(key, value)):
            detail = f"{where} has {key} {clip(value)}, which is not read; "
            raise RowError("bad weight", detail + "say 'train': false or true, or a 'weight'")
    return next(iter(weights.values()), None)


def multiplied(weights: Mapping[str, float], where: str) -> float:
    """The product of the weights, by which the loss of a token is multiplied.

    Raises:
        RowError: the product is not what float32 can hold.
    """
    result = math.prod(weights.values())
    if not is_weight(result):
        raise RowError("bad weight", f"{where}: {weights} make {result:g}; {WANTED}")
    return result
