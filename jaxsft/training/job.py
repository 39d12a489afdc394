"""From a config to all that the training loop needs, before a parameter is allocated."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from jax.sharding import Mesh

from jaxsft.config import Config, Source
from jaxsft.convert import pretrained
from jaxsft.convert.pretrained import Pretrained
from jaxsft.data.cache.divided import HOLDOUT
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack.epochs import epochs_of
from jaxsft.data.pack.reweight import Reweighting
from jaxsft.training import mesh_program, over_mesh, preflight
from jaxsft.training import teacher as teachers
from jaxsft.training.flops import row_cost
from jaxsft.training.inputs import PreparedData
from jaxsft.training.loader import Batches
from jaxsft.training.mesh_fit import enough_rows
from jaxsft.training.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class Job:
    program: mesh_program.MeshProgram
    batches: Batches
    eval_batches: dict[str, Batches]
    num_steps: int


def set_up(
    config: Config, base: Pretrained, data: PreparedData, teacher: Teacher | None = None
) -> Job:
    """Everything static: nothing here allocates a parameter.

    Args:
        teacher: of config.distil.

    Raises:
        ConfigError: model, mesh, batch and schedule don't fit each other.
    """
    train, length = config.train, config.data.sequence_length
    mesh = mesh_program.checked_mesh(config, base.settings)

    def batches(
        cache: Cache, rows: int, sources: tuple[Source, ...] | None = None, **others: Any
    ) -> Batches:
        return Batches(
            cache,
            sources=sources,
            sequence_length=length,
            batch_size=rows,
            seed=train.seed,
            sharding=over_mesh.batch_sharding(mesh),
            cost=row_cost(base.settings),
            **others,
        )

    teachers.refuse_rows_without(config, data.train)
    train_batches = batches(
        data.train,
        train.batch_size,
        config.data.train,
        microbatches=train.microbatches,
        reweighting=Reweighting.of(config.loss, config.data.train, data.train.sources),
        numbered=mesh_program.noise_seed(config) is not None,
        stored_top_k=teachers.stored_top_k(config),
    )
    num_steps = preflight.steps_of_run(config, train_batches.epochs)
    eval_rows = config.eval.batch_size or _eval_batch_size(config, data, mesh)
    apart = _apart(config, data.eval)
    eval_batches = {n: batches(c, eval_rows, apart=apart[n]) for n, c in data.eval.items()}
    most = max(one.epochs.max_segments for one in (train_batches, *eval_batches.values()))
    return Job(
        program=mesh_program.make_program(
            config,
            base.settings,
            num_steps,
            mesh,
            most,
            stored=pretrained.stored_dtypes(base),
            new_ids=base.new_ids,
            teacher=teacher,
        ),
        batches=train_batches,
        eval_batches=eval_batches,
        num_steps=num_steps,
    )


def _apart(config: Config, sets: Iterable[str]) -> dict[str, list[str]]:
    """The sources of each set of evaluation. There is one program for all of them: where one set's
    are kept apart, all have some."""
    names = mesh_program.sources_apart(config)
    return {name: names if name == HOLDOUT or not names else [name] for name in sets}


def _eval_batch_size(config: Config, data: PreparedData, mesh: Mesh) -> int:
    """That of training, or what holds all rows of the largest set: a batch above it is padding."""
    train, length = config.train, config.data.sequence_length
    most = max(
        (
            epochs_of(cache, None, sequence_length=length, batch_size=1, seed=train.seed).num_rows
            for cache in data.eval.values()
        ),
        default=1,
    )
    return min(train.batch_size, enough_rows(most, mesh.shape))


def eval_notes(config: Config, job: Job) -> list[str]:
    """What an evaluation's batch that was asked for has beside rows."""
    asked, rows = config.eval.batch_size, [b.epochs.num_rows for b in job.eval_batches.values()]
    enough = enough_rows(max(rows, default=1), job.program.mesh.shape)
    if asked is None or asked <= enough:
        return []
    return [
        f"warning: config.eval.batch_size={asked} is more than the {max(rows, default=0):,} packed"
        f" rows of the largest set: the rest is padding; {enough} holds all of them"
    ]
