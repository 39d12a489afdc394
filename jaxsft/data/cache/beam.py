"""The cache by Apache Beam: the same shards, made by the machines of a pipeline.

The directory of the cache must be one that every machine reads and writes.
"""

import dataclasses
import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from jaxsft.data.cache import prepare, shards
from jaxsft.data.cache.prepare import Maker, Progress, Work
from jaxsft.errors import ConfigError


def maker(options: Sequence[str]) -> Maker:
    """A maker for `prepare`; options are Beam's own, such as --runner=DirectRunner.

    Raises:
        ConfigError: apache-beam is not installed, or does not know an option.
    """
    try:
        beam: Any = importlib.import_module("apache_beam")
    except ImportError:
        raise ConfigError("Apache Beam is not installed: pip install 'jaxsft[beam]'") from None
    parsed = beam.options.pipeline_options.PipelineOptions(list(options))

    def make(work: Work, progress: Progress) -> None:
        del progress  # a pipeline shows its own
        # The work itself is shared by the pipeline, not by processes within its workers.
        data = dataclasses.replace(work.job.data, workers=1)
        work = dataclasses.replace(work, job=dataclasses.replace(work.job, data=data))
        with beam.Pipeline(options=parsed) as pipeline:
            chunks = (
                pipeline
                | "sources" >> beam.Create(list(enumerate(work.sources)))
                | "read" >> beam.FlatMapTuple(shards.read_source_chunks)
                | "spread" >> beam.Reshuffle()
            )
            made = chunks | "encode" >> beam.Map(lambda chunk: shards.encode_shard(work.job, chunk))
            everything = made | "gather" >> beam.combiners.ToList()
            _ = everything | "join" >> beam.Map(lambda parts: _join(work, parts))

    return make


def _join(work: Work, made: Iterable[shards.Shard]) -> None:
    prepare.collect(work, sorted(made, key=lambda shard: (shard.source, shard.number)))
