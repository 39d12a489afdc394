"""Source files to a cache of examples, with an account of every row and every token."""

import hashlib
import importlib.metadata
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.config import Data, Source
from jaxsft.data import cache as cache_files
from jaxsft.data.account import Drop, Outcome, Tally
from jaxsft.data.cache import Cache
from jaxsft.data.records import BadRow, Record, RowError, read_source
from jaxsft.data.tokenize import ChatTokenizer
from jaxsft.errors import DataError

SHARD_ROWS = 4096  # rows that one call of encode_shard takes
_CODE = (
    "records",
    "provenance",
    "sandbox",
    "template",
    "tokenize",
    "account",
    "cache",
    "prepare",
)
_TOKENIZER_FILES = (
    "*token*.json",
    "*.model*",
    "*.jinja",
    "*/*.jinja",
    "vocab*",
    "merges*",
    "config.json",
)
_LIBRARIES = ("tokenizers", "transformers", "jinja2", "sentencepiece")


def prepare(
    sources: Sequence[Source],
    data: Data,
    tokenizer_dir: str,
    progress: Callable[[int], None] | None = None,
    vocab_size: int | None = None,
) -> Cache:
    """The cache of these sources, made first if no earlier call made the same.

    Args:
        sources: files that are trained on together.
        data: how; its own train and eval are not read.
        tokenizer_dir: directory of the tokenizer and its chat template.
        progress: called with the number of rows done so far.
        vocab_size: of the model; an id beyond it makes a bad row.

    Raises:
        DataError: listing the bad rows, or naming the file that can't be used.
    """
    inputs = _inputs(sources, data, tokenizer_dir, vocab_size)
    fingerprint = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    directory = cache_root(data.cache_dir) / fingerprint[:32]
    files = [source.path for source in sources]
    if not (directory / cache_files.MANIFEST).is_file():
        directory.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f"{directory.name}.tmp-", dir=directory.parent))
        try:
            _make(making, sources, data, tokenizer_dir, progress, vocab_size, fingerprint, inputs)
            _publish(making, directory)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return Cache(directory, files)


def cache_root(cache_dir: str | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxsft"


def _publish(making: Path, directory: Path) -> None:
    try:
        making.rename(directory)
    except OSError:
        # Another process was first; its cache is made of the same inputs.
        if not (directory / cache_files.MANIFEST).is_file():
            raise


def _inputs(
    sources: Sequence[Source], data: Data, tokenizer_dir: str, vocab_size: int | None
) -> dict[str, Any]:
    """All that the cache's content depends on."""
    missing = [source.path for source in sources if not Path(source.path).is_file()]
    if missing:
        raise DataError("\n".join(f"{path}: no such file" for path in missing))
    here = Path(__file__).parent
    return {
        "sources": [[source.format, _digest(Path(source.path))] for source in sources],
        "names": source_names(sources),
        "tokenizer": _tokenizer_digest(tokenizer_dir),
        "template": None if data.template is None else _digest(Path(data.template)),
        "options": {
            "sequence_length": data.sequence_length,
            "train_on": data.train_on,
            "overlong": data.overlong,
            "bad_rows": data.bad_rows,
            "max_bad_rows": data.max_bad_rows,
            "vocab_size": vocab_size,
        },
        "code": [_digest(here / f"{name}.py") for name in _CODE],
        "libraries": [importlib.metadata.version(name) for name in _LIBRARIES],
    }


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from None


def _tokenizer_digest(directory: str) -> str:
    root = Path(directory)
    if not root.is_dir():
        raise DataError(f"{directory}: no such tokenizer directory")
    found = {path for pattern in _TOKENIZER_FILES for path in root.glob(pattern)}
    lines = [f"{path.relative_to(root)} {_digest(path)}" for path in found if path.is_file()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def source_names(sources: Sequence[Source]) -> list[str]:
    """The sources' names, the file's stem where none is given; numbered where they repeat."""
    names: list[str] = []
    for source in sources:
        name = source.name or Path(source.path).stem
        repeats = sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(f"{name}#{repeats + 1}" if repeats else name)
    return names


def encode_shard(
    tokenizer: ChatTokenizer, records: Iterable[Record], data: Data, vocab_size: int | None
) -> list[Outcome]:
    """The outcome of each record: a function of its arguments alone, so that any process or
    machine may take any shard."""
    return [_outcome(tokenizer, record, data, vocab_size) for record in records]


def _outcome(
    tokenizer: ChatTokenizer, record: Record, data: Data, vocab_size: int | None
) -> Outcome:
    file, row = record.file, record.row
    if isinstance(record, BadRow):
        return Outcome(file, row, bad=record)
    try:
        examples = tokenizer.encode(record, data.train_on, vocab_size)
    except RowError as error:
        return Outcome(file, row, bad=BadRow(file, row, error.kind, str(error)))
    kept, dropped = [], []
    for example in examples:
        num_tokens, limit = len(example.ids), f"sequence_length={data.sequence_length}"
        if num_tokens > data.sequence_length:
            detail = f"overlong: {num_tokens} tokens > {limit}"
            if data.overlong == "error":
                return Outcome(file, row, bad=BadRow(file, row, "overlong", detail))
            dropped.append(Drop(f"overlong: more than {limit} tokens", detail, num_tokens))
        elif not example.weights.any():
            dropped.append(Drop("no supervised token", "no supervised token", num_tokens))
        else:
            kept.append(example)
    return Outcome(file, row, tuple(kept), tuple(dropped))


def outcomes(
    sources: Sequence[Source], data: Data, tokenizer: ChatTokenizer, vocab_size: int | None
) -> Iterator[tuple[int, list[Outcome]]]:
    """(index of the source, outcomes of up to SHARD_ROWS of its rows) until all rows are done."""
    for index, source in enumerate(sources):
        records = read_source(source)
        while rows := list(itertools.islice(records, SHARD_ROWS)):
            yield index, encode_shard(tokenizer, rows, data, vocab_size)


def _make(
    directory: Path,
    sources: Sequence[Source],
    data: Data,
    tokenizer_dir: str,
    progress: Callable[[int], None] | None,
    vocab_size: int | None,
    fingerprint: str,
    inputs: dict[str, Any],
) -> None:
    tokenizer = ChatTokenizer(tokenizer_dir, data.template)
    tallies = [Tally() for _ in sources]
    bad: list[BadRow] = []
    lengths: list[int] = []
    rows: list[tuple[int, int]] = []
    shard_sizes: list[int] = []
    ends: set[int] = set()
    for source, shard in outcomes(sources, data, tokenizer, vocab_size):
        for outcome in shard:
            tallies[source].add(outcome)
        bad += [outcome.bad for outcome in shard if outcome.bad]
        kept = [example for outcome in shard for example in outcome.kept]
        if kept:
            cache_files.write_shard(directory, len(shard_sizes), kept)
            shard_sizes.append(len(kept))
        lengths += [len(example.ids) for example in kept]
        rows += [(source, example.row) for example in kept]
        ends.update(*[example.end_of_turn_ids for example in kept])
        if progress is not None:
            progress(sum(tally.counts["rows_in"] for tally in tallies))
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    _judge(bad, total, data)
    report = total.report()
    names = source_names(sources)
    report["bad_rows"] = [str(row) for row in bad]
    report["sources"] = {n: t.report() for n, t in zip(names, tallies, strict=True)}
    template = tokenizer.template if tokenizer.has_template else None
    manifest = {
        "fingerprint": fingerprint,
        "shard_sizes": shard_sizes,
        "template": template and template.source,
        "template_sha256": template and template.sha256,
        "end_of_turn_ids": sorted(ends),
        "tokenizer_sha256": inputs["tokenizer"],
        "files": [source.path for source in sources],
        "inputs": inputs,
    }
    np.save(directory / "lengths.npy", np.array(lengths, np.int64))
    np.save(directory / "rows.npy", np.array(rows, np.int64))
    cache_files.write_json(directory / "report.json", report)
    cache_files.write_json(directory / cache_files.MANIFEST, manifest)


def _judge(bad: Sequence[BadRow], total: Tally, data: Data) -> None:
    """Raises DataError if there are more bad rows than data.bad_rows allows, or no example."""
    overlong = [row for row in bad if row.kind == "overlong"]  # only with overlong="error"
    listed = bad if data.bad_rows == "error" or len(bad) > data.max_bad_rows else overlong
    if listed:
        lines = [str(row) for row in listed[: data.max_bad_rows]]
        rows = total.counts["rows_in"]
        lines.append(f"{len(listed)} of {rows} rows can't be used, {len(lines)} listed")
        if data.bad_rows == "skip" and listed is bad:
            lines.append(f"data.bad_rows='skip' allows max_bad_rows={data.max_bad_rows}")
        raise DataError("\n".join(lines))
    if not total.counts["examples"]:
        raise DataError(
            f"none of {total.counts['rows_in']} rows gives an example: {dict(total.dropped)}"
        )
