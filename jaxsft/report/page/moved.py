"""What changed in the model: how far its parameters are from the base's, by layer and kind."""

import dataclasses
from collections.abc import Sequence

from jaxsft.report import weight_change
from jaxsft.report.run_read import RunFiles

_MAX_LAYERS = 160


@dataclasses.dataclass(frozen=True)
class Cell:
    text: str
    shade: int  # percent of the darkest


@dataclasses.dataclass(frozen=True)
class Layer:
    name: str
    cells: Sequence[Cell]


@dataclasses.dataclass(frozen=True)
class Moved:
    words: str
    rows: Sequence[tuple[str, ...]]
    kinds: Sequence[str]
    layers: Sequence[Layer]


def moved_of(run: RunFiles) -> Moved | None:
    """None: not known, as of a run that hasn't come to its end."""
    weights = run.summary.weights
    if not weights:
        return None
    adapters = run.summary.trained_parameters
    words = (
        f"All weights together moved by {weight_change.overall(weights):.3%}: the norm of the"
        " difference from the base model over the norm of its weights. Fine-tuning moves weights"
        " little: tens of percent say that the learning rate is too high."
    )
    if adapters is not None:
        words += f" The adapter's {adapters:,} parameters did that; those of the base stayed."
    stacked = [one for one in weight_change.by_kind(weights) if one.layers]
    found = {
        (one.name, layer): share
        for one in stacked
        for layer, share in zip(one.layers, one.by_layer, strict=True)
    }
    most = max(found.values(), default=0.0)
    kinds = [one.name for one in stacked if any(one.changes)]
    layers = [
        Layer(
            f"layer {layer}",
            [_cell(found.get((kind, layer)), most) for kind in kinds] + [_cell(share, most)],
        )
        for layer, share in weight_change.by_layer(weights)[:_MAX_LAYERS]
    ]
    return Moved(words, weight_change.rows(weights), [_short(kind) for kind in kinds], layers)


def _cell(share: float | None, most: float) -> Cell:
    if share is None:
        return Cell("", 0)
    return Cell(f"{100 * share:.2f}", round(70 * share / most) if most else 0)


def _short(name: str) -> str:
    """`"attention.q_DNH"` -> `"q"`, `"mlp_norm.scale_D"` -> `"mlp_norm"`."""
    parts = [part.rpartition("_")[0] if part[-1:].isupper() else part for part in name.split(".")]
    last = parts[-1] or name
    return parts[-2] if last == "scale" and len(parts) > 1 else last
