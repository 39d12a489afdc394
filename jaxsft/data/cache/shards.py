"""Rows of the sources, a shard at a time, as examples in files: the work that processes share.

`encode_shard` is a pure function of its arguments but for the files that it writes, so that any
process or machine may take any shard, and the cache is the same bytes whoever did.
"""

import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from jaxsft.config import Data, Source
from jaxsft.data.cache import store
from jaxsft.data.conversation import BadRow, RawRow, Record
from jaxsft.data.encode.account import ROW_COUNTS, Outcome, Tally, row_counts
from jaxsft.data.encode.outcomes import outcomes_of
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.encode.tokenizer_files import open_tokenizer
from jaxsft.data.quality.row_statistics import Facts, shard_facts
from jaxsft.data.read import formats, sources
from jaxsft.data.read.bad_rows import first_of
from jaxsft.errors import DataError, Stopped
from jaxsft.terminal import advice

SHARD_ROWS = 2048
SHARD_BYTES = 2**25  # of raw rows, so that long rows don't fill memory
# Starting a process costs a few seconds of imports: less work than this isn't shared.
MIN_BYTES_PER_PROCESS = 2**23  # of raw rows: about 15,000 short conversations


@dataclasses.dataclass(frozen=True, eq=False)
class ShardJob:
    """All that encoding depends on; equal where the fingerprint is."""

    fingerprint: str
    directory: Path  # where shards are written
    tokenizer_dir: str
    data: Data
    vocab_size: int | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardJob) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The rows of one shard, not yet parsed."""

    source: int  # index of the source
    number: int  # in the source
    form: str
    columns: dict[str, str]
    ignored: tuple[str, ...]
    rows: list[RawRow]

    @property
    def num_bytes(self) -> int:
        """Size of the rows, about."""
        return sum(map(_num_bytes, self.rows))


@dataclasses.dataclass(frozen=True)
class Shard:
    """What became of a chunk."""

    source: int
    number: int
    name: str  # of its files
    entry: tuple[int, ...]  # examples and checksums
    lengths: np.ndarray  # int32 [N]
    supervised: np.ndarray  # int32 [N]
    widths: np.ndarray  # int32 [N]: tokens that a teacher names for a target; 0: no teacher
    files: tuple[str, ...]
    rows: np.ndarray  # int32 [N, 2]: index in `files`, row
    row_counts: np.ndarray  # int32 [R, C]: of each row that gives an example, account.ROW_COUNTS
    tally: Tally
    bad: list[BadRow]  # the first data.max_bad_rows, and the first of each kind
    num_bad: int
    end_of_turn_ids: frozenset[int]
    control_ids: frozenset[int]
    facts: Facts


@functools.lru_cache(maxsize=1)
def tokenizer_of(job: ShardJob) -> ChatTokenizer:
    """The job's tokenizer, read once in each process."""
    advice.leave_out()
    return open_tokenizer(job.tokenizer_dir, job.data)


def read_chunks(all_sources: Sequence[Source]) -> Iterator[Chunk]:
    """Every row of every source, in order."""
    for index, source in enumerate(all_sources):
        yield from read_source_chunks(index, source)


def read_source_chunks(index: int, source: Source) -> Iterator[Chunk]:
    """Every row of one source, in order."""
    form = sources.form_of(source)
    for number, rows in enumerate(_grouped(sources.read_rows(source))):
        yield Chunk(index, number, form, source.columns, source.ignore, rows)


def _num_bytes(row: RawRow) -> int:
    return len(row.data) if isinstance(row.data, bytes) else 4096


def _grouped(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += _num_bytes(row)
        if len(group) == SHARD_ROWS or size >= SHARD_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def outcomes(job: ShardJob, chunk: Chunk) -> tuple[list[Record], list[Outcome]]:
    """Each row as a record, and what becomes of it."""
    records = [
        formats.record_of(row, chunk.form, chunk.columns, chunk.ignored) for row in chunk.rows
    ]
    return records, outcomes_of(tokenizer_of(job), records, job.data, job.vocab_size)


def encode_shard(job: ShardJob, chunk: Chunk) -> Shard:
    """Writes the examples of the chunk and returns the account of it.

    Raises:
        DataError: the template runs away, or memory does not suffice.
    """
    try:
        records, results = outcomes(job, chunk)
    except MemoryError:
        first, last = chunk.rows[0], chunk.rows[-1]
        raise DataError(
            f"{first.file}:{first.row} to {last.row}: not enough memory to encode these rows; try "
            "a smaller data.workers"
        ) from None
    tally = Tally()
    for outcome in results:
        tally.add(outcome)
    files = tuple(dict.fromkeys(row.file for row in chunk.rows))
    kept = [example for outcome in results for example in outcome.kept]
    bad = [outcome.bad for outcome in results if outcome.bad]
    name = f"{chunk.source:03d}-{chunk.number:06d}"
    return Shard(
        source=chunk.source,
        number=chunk.number,
        name=name,
        entry=store.write_shard(job.directory, name, kept),
        files=files,
        lengths=np.array([len(example.ids) for example in kept], np.int32),
        supervised=np.array([np.count_nonzero(e.weights) for e in kept], np.int32),
        widths=np.array([e.teacher.ids_SX.shape[1] if e.teacher else 0 for e in kept], np.int32),
        rows=np.array([(files.index(e.file), e.row) for e in kept], np.int32).reshape(-1, 2),
        row_counts=np.array(
            [row_counts(outcome.kept) for outcome in results if outcome.kept], np.int32
        ).reshape(-1, len(ROW_COUNTS)),
        tally=tally,
        bad=first_of(bad, job.data.max_bad_rows),
        num_bad=len(bad),
        end_of_turn_ids=frozenset().union(*(example.end_of_turn_ids for example in kept)),
        control_ids=frozenset().union(*(example.control_ids for example in kept)),
        facts=shard_facts(records, results),
    )


def encode_all(job: ShardJob, chunks: Iterator[Chunk]) -> Iterator[Shard]:
    """The shards in order, made by data.workers processes; by this one where there is little."""
    workers = job.data.workers or len(os.sched_getaffinity(0))
    first, size = [], 0
    if job.data.workers is None:
        for chunk in chunks:
            first.append(chunk)
            size += chunk.num_bytes
            if size >= MIN_BYTES_PER_PROCESS * workers:
                break
        else:
            workers = 1
    every = itertools.chain(first, chunks)
    if workers == 1:
        return (encode_shard(job, chunk) for chunk in every)
    return _in_processes(job, every, workers)


def _in_processes(job: ShardJob, chunks: Iterator[Chunk], workers: int) -> Iterator[Shard]:
    """At most two chunks for each process are in memory."""
    # Not by fork: this process may have threads, whose locks a fork would copy as they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        waiting: deque[Future[Shard]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(encode_shard, job, chunk))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            processes = _processes(pool)
            pool.shutdown()  # now each has its exit code
            raise _broken([process.exitcode for process in processes]) from None
        except BaseException:  # a stop, above all: nobody waits for what is half done
            for process in _processes(pool):
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _broken(exit_codes: Sequence[int | None]) -> BaseException:
    """What ended a process: a stop that was sent to all of them, or a lack of memory perhaps."""
    if set(exit_codes) == {-signal.SIGTERM}:
        return Stopped("stopped by SIGTERM; start the same command again")
    return DataError(
        f"one of the {len(exit_codes)} processes that prepare the data was killed, by a lack of "
        "memory perhaps; try a smaller data.workers"
    )


def _processes(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    return list((pool._processes or {}).values())


def _start_worker() -> None:
    """Processes share the cores already; an interrupt is the parent's to handle, its end theirs."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A worker that waits for work does not notice that its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
