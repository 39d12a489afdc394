"""What changed in the model: how far its parameters are from the base's, by layer and kind."""

import dataclasses
from collections.abc import Sequence

from jaxsft.model import vocabulary
from jaxsft.report import weight_change
from jaxsft.report.adapter_change import AdapterChange
from jaxsft.report.run_read import RunFiles
from jaxsft.report.token_rows import TableChange

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
class Table:
    """A table with a row for each token."""

    title: str
    words: str
    rows: Sequence[tuple[str, int, bool, str, str]]  # text, id, whether new, share, norm


@dataclasses.dataclass(frozen=True)
class Adapters:
    words: str
    all_act: bool
    rows: Sequence[tuple[str, ...]]  # weight, rank, adapters, least, most


@dataclasses.dataclass(frozen=True)
class Moved:
    words: str
    rows: Sequence[tuple[str, ...]]
    kinds: Sequence[str]
    layers: Sequence[Layer]
    tables: Sequence[Table]
    adapters: Adapters | None


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
    return Moved(
        words,
        weight_change.rows(weights),
        [_short(kind) for kind in kinds],
        layers,
        [_table(one) for one in run.summary.tables],
        _adapters(run.summary.adapters),
    )


def _table(one: TableChange) -> Table:
    title = "the embedding" if one.name == vocabulary.EMBEDDING else "the head"
    title += ", which is the head too" if one.tied else ""
    if not one.moved:
        return Table(title, f"None of {one.rows:,} rows moved: it stayed as it was.", ())
    words = f"{one.moved:,} of {one.rows:,} rows moved"
    if one.new:
        words += f", {one.new_moved:,} of them of the {one.new:,} tokens that this run added"
    shown = [
        (
            _spelt(row.text),
            row.id,
            row.new,
            f"{row.change / row.norm:.2%}" if row.norm else "from zeros",
            f"{row.change:.3g}",
        )
        for row in one.top
    ]
    return Table(title, f"{words}. Furthest:", shown)


def _spelt(text: str) -> str:
    """A token's text, white space marked."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(no text)"


def _adapters(several: Sequence[AdapterChange]) -> Adapters | None:
    """None: the run had none."""
    total = sum(len(one.shares) for one in several)
    still = sum(len(one.still) for one in several)
    if not total:
        return None
    words = f"All {total:,} adapters add something to their weights."
    if still:
        words = (
            f"{still:,} of {total:,} adapters add nothing: no gradient reached them, so that they"
            " cost memory and time for nothing. Leave them out of config.lora.targets."
        )
    return Adapters(words, not still, [_adapter(one) for one in several])


def _adapter(one: AdapterChange) -> tuple[str, ...]:
    """A row: its weight, rank, how many there are, those that add least and most, and nothing."""
    places = sorted(range(len(one.shares)), key=lambda place: one.shares[place])
    ends = [_share(one, place) for place in (places[0], places[-1])] if places else ["", ""]
    still = ", ".join(_layer(one, place) for place in one.still)
    return (one.name, f"{one.rank}", f"{len(one.shares)}", *ends, still)


def _share(one: AdapterChange, place: int) -> str:
    return f"{one.shares[place]:.3%}" + (f" in {one.layers[place]}" if one.layers else "")


def _layer(one: AdapterChange, place: int) -> str:
    return f"layer {one.layers[place]}" if one.layers else "this one"


def _cell(share: float | None, most: float) -> Cell:
    if share is None:
        return Cell("", 0)
    return Cell(f"{100 * share:.2f}", round(70 * share / most) if most else 0)


def _short(name: str) -> str:
    """`"attention.q_DNH"` -> `"q"`, `"mlp_norm.scale_D"` -> `"mlp_norm"`."""
    parts = [part.rpartition("_")[0] if part[-1:].isupper() else part for part in name.split(".")]
    last = parts[-1] or name
    return parts[-2] if last == "scale" and len(parts) > 1 else last
