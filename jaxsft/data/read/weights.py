"""How much a message, a part of one, or a token is trained, under the names that data sets use."""

import math
from collections.abc import Mapping
from typing import Any

from jaxsft.data.read.strict_json import RowError, show

NUMBER_KEYS, SWITCH_KEYS = ("weight", "loss_weight", "loss_scale"), ("train", "loss")
# Names that other trainers have for it, with values of their own: never taken for nothing.
OTHER_KEYS = (
    *("training", "train_detail", "trainable", "is_trainable", "train_on", "is_train"),
    *("supervised", "compute_loss", "no_loss", "loss_mask", "mask", "masked", "ignore", "skip"),
)
# float32 ends at 1e38 and 1e-38: sums over a batch, and squares of them, stay between.
LEAST, MOST = 1e-12, 1e12
WANTED = f"expected a number of 0, or from {LEAST:g} to {MOST:g}"


def is_weight(value: Any) -> bool:
    """Whether the value is a number that stays what it is in float32, and in sums of others."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value == 0 or LEAST <= value <= MOST  # NaN is neither


def weight_of(holder: Mapping[str, Any], where: str) -> float | None:
    """The weight that a message or a part gives itself; None where it gives none.

    Raises:
        RowError: it is no weight, there are two that differ, or it has a name that isn't read.
    """
    weights: dict[str, float] = {}
    for key in NUMBER_KEYS:
        if (weight := holder.get(key)) is not None:
            if not is_weight(weight):
                raise RowError("bad weight", f"{where} has {key} {show(weight)}; {WANTED}")
            weights[key] = float(weight)
    for key in SWITCH_KEYS:
        if (switch := holder.get(key)) is not None:
            if not isinstance(switch, bool):
                detail = f"{where} has {key} {show(switch)}; expected true or false"
                raise RowError("bad weight", detail)
            weights[key] = float(switch)
    if len(set(weights.values())) > 1:
        raise RowError("two weights", f"{where} has the weights {weights}; keep one")
    for key in OTHER_KEYS:
        if holder.get(key) is not None:
            detail = f"{where} has {key} {show(holder[key])}, which is not read; "
            raise RowError("bad weight", detail + "say 'train': false or true, or a 'weight'")
    return next(iter(weights.values()), None)


def product(weights: Mapping[str, float], where: str) -> float:
    """All of them multiplied.

    Raises:
        RowError: the product is not what float32 can hold.
    """
    result = math.prod(weights.values())
    if not is_weight(result):
        raise RowError("bad weight", f"{where}: {weights} make {result:g}; {WANTED}")
    return result
