"""What of a model trains, and how, in few rows: a run says it before its first step."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from flax import nnx

from jaxsft.config import Optim
from jaxsft.model.state import Params
from jaxsft.training.treatment import Treatment


@dataclasses.dataclass(frozen=True)
class TableRow:
    """Parameters that train alike."""

    label: str  # of their rule
    tensors: int
    parameters: int  # those that train; those of frozen ones
    rate: str
    weight_decay: float
    frozen: bool

    @property
    def words(self) -> str:
        size = f"{self.parameters:,}" if self.parameters < 1e6 else f"{self.parameters / 1e6:,.1f}M"
        tensors = f"{self.tensors} tensor{'s' * (self.tensors > 1)}"
        what = f"{self.label}: {tensors}, {size} parameters"
        if self.frozen:
            return f"{what}, frozen"
        return f"{what}, learning rate {self.rate}, weight decay {self.weight_decay:g}"


def table(optim: Optim, found: Mapping[str, Treatment], shapes: Params) -> list[TableRow]:
    """What trains, and what doesn't, in rows of parameters that train alike."""
    flat = nnx.traversals.flatten_mapping(shapes)
    leaves = {".".join(path): leaf.shape for path, leaf in flat.items()}
    rows: dict[tuple[str, str, float, bool], list[str]] = {}
    for name, one in found.items():
        rate = "none" if one.frozen else _rate(optim.peak_lr, one)
        rows.setdefault((one.label, rate, one.weight_decay, one.frozen), []).append(name)
    return [
        TableRow(
            label,
            len(names),
            sum(_num_trained(found[name], leaves[name]) for name in names),
            rate,
            decay,
            frozen,
        )
        for (label, rate, decay, frozen), names in rows.items()
    ]


def _rate(peak: float, one: Treatment) -> str:
    """At its peak; over the layers that train, where they differ."""
    rates = peak * np.asarray(one.lr_factor)
    if rates.ndim and one.trained is not None:
        rates = rates[one.trained]
    low, high = float(rates.min()), float(rates.max())
    return f"{high:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _num_trained(one: Treatment, shape: tuple[int, ...]) -> int:
    share = 1.0 if one.trained is None else float(np.mean(one.trained))
    return round(float(np.prod(shape)) * share)
