"""Two models side by side: what moved between them, and the loss of each."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import rich.box
from rich.console import Console
from rich.table import Table

from jaxsft.config import Config
from jaxsft.convert import pretrained
from jaxsft.convert.pretrained import Pretrained
from jaxsft.devices import mesh
from jaxsft.evaluation.losses import mean_losses
from jaxsft.model import state, vocabulary
from jaxsft.model.state import Params
from jaxsft.report import comparison, weight_change
from jaxsft.report.weight_change import LeafChange, MovedRows, Rank
from jaxsft.terminal import console as terminal
from jaxsft.terminal.printable import printable
from jaxsft.training import inputs
from jaxsft.training.job import Job, set_up


@dataclasses.dataclass(frozen=True)
class ComparedModels:
    """
    Attributes:
        names: of the base and of the result.
        losses: of each, by figure; empty where there was no set.
    """

    names: tuple[str, str]
    changes: Sequence[LeafChange]
    ranks: Sequence[Rank]
    rows: Sequence[MovedRows]
    losses: tuple[Mapping[str, float | None], Mapping[str, float | None]]


def compared(
    configs: Sequence[Config], models: Sequence[Pretrained], rank_layers: int, evaluates: bool
) -> ComparedModels:
    """What there is to know of the two models.

    Args:
        configs: of a run of each, for its data and its mesh.
        rank_layers: whose matrices' ranks are looked at.
        evaluates: on config.data.eval.
    """
    base, result = models
    pairs = zip(configs, models, strict=True)
    jobs = [_job(config, model) if evaluates else None for config, model in pairs]
    trees = [_params(model, job) for model, job in zip(models, jobs, strict=True)]
    losses = [_losses(tree, job) for tree, job in zip(trees, jobs, strict=True)]
    rows = min(model.settings.vocab_size for model in models)
    one, two = (_with_rows(tree, rows) for tree in trees)
    return ComparedModels(
        names=(base.source, result.source),
        changes=weight_change.measured(one, two, base.settings),
        ranks=weight_change.ranks(one, two, base.settings, rank_layers) if rank_layers else (),
        rows=weight_change.moved_rows(one, two),
        losses=(losses[0], losses[1]),
    )


def _job(config: Config, model: Pretrained) -> Job:
    quiet = terminal.Console(speaks=False)
    config = dataclasses.replace(config, distil=None)  # only evaluated, which knows no teacher
    return set_up(config, model, inputs.prepare_data(config, model, quiet))


def _params(model: Pretrained, job: Job | None) -> Params:
    if job is not None:
        return pretrained.read_params(model, job.program.placement.params)
    _, shapes, axes = state.abstract(model.settings, "float32", "none")
    return pretrained.read_params(model, state.shardings(shapes, axes, mesh.single_device_mesh()))


def _with_rows(params: Params, rows: int) -> Params:
    """With the first rows of what has a row for each token: new tokens have no partners."""
    tables = {leaf: params[leaf] for leaf in vocabulary.tables(params)}
    if all(vocabulary.by_token(leaf, table).shape[0] == rows for leaf, table in tables.items()):
        return params
    cut = {
        leaf: vocabulary.by_token(leaf, vocabulary.by_token(leaf, table)[:rows])
        for leaf, table in tables.items()
    }
    return params | cut


def _losses(params: Params, job: Job | None) -> Mapping[str, float | None]:
    if job is None:
        return {}
    with jax.set_mesh(job.program.mesh):
        return mean_losses(job.program.eval_step, params, job.eval_batches)


def as_json(found: ComparedModels) -> dict[str, Any]:
    """The same with the relative changes, which follow from the norms."""
    changes = weight_change.by_kind(found.changes)
    return {
        "base": found.names[0],
        "result": found.names[1],
        "relative_change": weight_change.overall(found.changes),
        "parameters": [dataclasses.asdict(one) | {"relative": one.relative} for one in changes],
        "layers": dict(weight_change.by_layer(found.changes)),
        "ranks": [dataclasses.asdict(one) for one in found.ranks],
        "rows": [dataclasses.asdict(one) for one in found.rows],
        "losses": [dict(one) for one in found.losses],
    }


def show(found: ComparedModels, console: Console) -> None:
    """Prints the tables."""
    base, result = map(printable, found.names)
    moved = weight_change.overall(found.changes)
    console.print(f"{result} is {moved:.3%} of the weights' norm away from {base}", markup=False)
    _print(
        console, "By parameter", weight_change.rows(found.changes), ("", "moved", "least", "most")
    )
    layers = [(str(n), f"{moved:.3%}") for n, moved in weight_change.by_layer(found.changes)]
    _print(console, "By layer", layers, ("layer", "moved"))
    ranks = [(one.name, str(one.layer), f"{one.rank} of {one.of}") for one in found.ranks]
    title = f"Directions that hold {weight_change.ENERGY:.0%} of the change"
    _print(console, title, ranks, ("", "layer", "rank"))
    for one in found.rows:
        console.print(f"{one.name}: {one.moved:,} of {one.rows:,} rows moved")
    before, after = _known(found)
    rows = [(c.name, c.before, c.after, c.change) for c in comparison.compared(before, after)]
    _print(console, "On the sets given", rows, ("", "base", "result", "change"))


def _known(found: ComparedModels) -> list[dict[str, float]]:
    return [{n: v for n, v in one.items() if v is not None} for one in found.losses]


def _print(
    console: Console, title: str, rows: Sequence[tuple[str, ...]], head: tuple[str, ...]
) -> None:
    if not rows:
        return
    table = Table(*head, title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)
