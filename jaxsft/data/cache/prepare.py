"""Source files to a cache of examples, with an account of every row and every token."""

import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.config import Data, Source
from jaxsft.data.cache import shards
from jaxsft.data.cache import store as cache_files
from jaxsft.data.cache.manifest import CacheReport, Manifest, SourceReport
from jaxsft.data.cache.shards import Shard, ShardJob
from jaxsft.data.cache.store import Cache
from jaxsft.data.conversation import BadRow
from jaxsft.data.encode.account import Tally
from jaxsft.data.encode.tokenizer_files import date_written, directory_digest, file_digest
from jaxsft.data.quality import measures
from jaxsft.data.quality import row_statistics as row_facts
from jaxsft.data.quality.row_statistics import Facts, Gathering
from jaxsft.data.read import bad_rows, file_rows
from jaxsft.data.read import sources as source_files
from jaxsft.errors import DataError
from jaxsft.files import places
from jaxsft.files.caches import cache_name, cache_root
from jaxsft.terminal.redact import redacted

# Options that decide nothing in a cache: where it lies, who makes it, and what belongs to the plan.
_NOT_IN_FINGERPRINT = ("train", "eval", "cache_dir", "workers", "tokenizer", "template") + (
    "template_date",  # stands there as "date" where the template writes one
    *(
        "holdout",
        "holdout_seed",
        "duplicates",
        "share",
    ),  # `divided` makes caches of their own of these
)
# The code that decides what is in a cache, by patterns below the package; the rest of data/ plans,
# shows or measures.
_CODE = (
    "data/conversation.py",
    *("data/read/*.py", "data/render/*.py", "data/encode/*.py", "data/quality/*.py"),
    *("data/cache/manifest.py", "data/cache/store.py", "data/cache/shards.py"),
    *("data/cache/prepare.py", "files/records.py", "terminal/redact.py"),
)
_LIBRARIES = ("tokenizers", "transformers", "jinja2", "sentencepiece")


def prepare(
    sources: Sequence[Source],
    data: Data,
    tokenizer_dir: str,
    progress: "Progress" = None,
    vocab_size: int | None = None,
    make: "Maker | None" = None,
) -> Cache:
    """The cache of these sources, made first if no earlier call made the same.

    Args:
        sources: files that are trained on together.
        data: how; its own train and eval are not read.
        tokenizer_dir: directory of the tokenizer and its chat template.
        progress: called with the number of rows done so far.
        vocab_size: of the model; an id beyond it makes a bad row.
        make: makes a cache that is missing; None: processes of this machine do.

    Raises:
        DataError: listing the bad rows, or naming the file that can't be used.
    """
    files = [file for source in sources for file in source_files.files_of(source)]
    stamps = source_files.stamps(files)
    inputs = fingerprint_inputs(sources, data, tokenizer_dir, vocab_size)
    fingerprint = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    directory = cache_root(data.cache_dir) / fingerprint[:32]
    if not (directory / cache_files.MANIFEST).is_file():
        with places.using(cache_name(data.cache_dir), directory.parent):
            directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            making = Path(tempfile.mkdtemp(prefix=f"{directory.name}.tmp-", dir=directory.parent))
        try:
            pinned = dataclasses.replace(data, template_date=inputs["date"])
            job = ShardJob(fingerprint, making, tokenizer_dir, pinned, vocab_size)
            (make or make_here)(Work(job, tuple(sources), tuple(files), inputs), progress)
            _check_unchanged(stamps, source_files.stamps(files))
            publish(making, directory)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return Cache(directory, files)


@dataclasses.dataclass(frozen=True)
class Work:
    """One cache to be made in job.directory."""

    job: ShardJob
    sources: tuple[Source, ...]
    files: tuple[str, ...]  # of all sources, in order
    inputs: dict[str, Any]  # of the fingerprint


Progress = Callable[[int], None] | None
Maker = Callable[[Work, Progress], None]


def make_here(work: Work, progress: Progress) -> None:
    """Makes the cache with the processes of this machine."""
    shards.tokenizer_of(work.job)  # a tokenizer or template that can't be used is found out first
    collect(work, shards.encode_all(work.job, shards.read_chunks(work.sources)), progress)


def _check_unchanged(before: dict[str, str], after: dict[str, str]) -> None:
    changed = [path for path, stamp in before.items() if after.get(path) != stamp]
    if changed:
        raise DataError(f"{changed[0]}: changed while it was read; start again when it is complete")


def publish(making: Path, directory: Path) -> None:
    """Gives a whole cache its name, unless another process has made the same meanwhile."""
    try:
        making.rename(directory)
    except OSError:
        # Another process was first; its cache is made of the same inputs.
        if not (directory / cache_files.MANIFEST).is_file():
            raise


def fingerprint_inputs(
    sources: Sequence[Source], data: Data, tokenizer_dir: str, vocab_size: int | None
) -> dict[str, Any]:
    """All that the cache's content depends on."""
    package = Path(__file__).parents[2]
    code = sorted(path for pattern in _CODE for path in package.glob(pattern))
    options = {k: v for k, v in vars(data).items() if k not in _NOT_IN_FINGERPRINT}
    return {
        "sources": [
            [source.format, source.columns, source.ignore, source_files.fingerprint_of(source)]
            for source in sources
        ],
        "names": source_names(sources),
        "tokenizer": directory_digest(tokenizer_dir),
        "template": None if data.template is None else file_digest(Path(data.template)),
        "date": date_written(tokenizer_dir, data),
        "options": options | {"vocab_size": vocab_size},
        "code": [f"{path.relative_to(package)} {file_digest(path)}" for path in code],
        "libraries": [importlib.metadata.version(name) for name in _LIBRARIES],
    }


def source_names(sources: Sequence[Source]) -> list[str]:
    """The sources' names, the file's stem where none is given; numbered where they repeat."""
    names: list[str] = []
    for source in sources:
        path = file_rows.without_query(source.path)
        name = redacted(source.name or Path(path).name.partition(".")[0] or path)
        repeats = sum(other == name or other.startswith(f"{name}#") for other in names)
        names.append(f"{name}#{repeats + 1}" if repeats else name)
    return names


def collect(work: Work, made: Iterable[Shard], progress: Progress = None) -> None:
    """Joins shards, given in order, to a cache; its manifest is written last.

    Raises:
        DataError: there are more bad rows than job.data allows, or no example at all.
    """
    job, sources = work.job, work.sources
    tallies, facts = [Tally() for _ in sources], [Gathering() for _ in sources]
    bad: list[BadRow] = []
    num_bad = 0
    names, entries = [], []
    of_examples = ("lengths", "supervised", "widths")
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in (*of_examples, "rows")}
    row_counts: list[np.ndarray] = []
    ends: set[int] = set()
    controls: set[int] = set()
    number_of = {file: number for number, file in enumerate(work.files)}
    for shard in made:
        tallies[shard.source].merge(shard.tally)
        facts[shard.source].add(shard.facts)
        num_bad += shard.num_bad
        bad = bad_rows.first_of(bad + shard.bad, job.data.max_bad_rows)
        names.append(shard.name)
        entries.append(shard.entry)
        for name in of_examples:
            arrays[name].append(getattr(shard, name))
        row_counts.append(shard.row_counts)
        numbers = np.array([number_of[file] for file in shard.files], np.int64)
        source = np.full(len(shard.rows), shard.source)
        arrays["rows"].append(
            np.stack([source, numbers[shard.rows[:, 0]], shard.rows[:, 1]], axis=1)
        )
        ends |= shard.end_of_turn_ids
        controls |= shard.control_ids
        if progress is not None:
            progress(sum(tally.counts["rows_in"] for tally in tallies))
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    _judge(bad, num_bad, total, job.data)
    cache_files.join_shards(job.directory, names)
    for name, parts in arrays.items():
        cache_files.write_array(job.directory / f"{name}.npy", np.concatenate(parts))
    cache_files.write_row_counts(job.directory, np.concatenate(row_counts))
    _write_report(work, tallies, total, [part.merged() for part in facts], bad)
    tokenizer = shards.tokenizer_of(job)
    template = tokenizer.template if tokenizer.has_template else None
    manifest = Manifest(
        fingerprint=job.fingerprint,
        shards=entries,
        template=template and template.source,
        template_sha256=template and template.sha256,
        end_of_turn_ids=sorted(ends),
        control_ids=sorted(controls),
        tokenizer_sha256=work.inputs["tokenizer"],
        files=[redacted(file) for file in work.files],
        inputs=work.inputs,
    )
    cache_files.write_manifest(job.directory, manifest)


def _write_report(
    work: Work,
    tallies: Sequence[Tally],
    total: Tally,
    facts: Sequence[Facts],
    bad: Sequence[BadRow],
) -> None:
    whole = row_facts.merge(facts)
    # A model's own template knows what it writes as plain text.
    foreign = work.job.data.template is not None
    template = shards.tokenizer_of(work.job).template if foreign else None
    names = source_names(work.sources)
    report = CacheReport(
        **vars(total.account()),
        quality=measures.quality_of(whole),
        bad_rows=[str(row) for row in bad],
        bad_rows_by_cause=bad_rows.listed(bad, total.dropped),
        unknown_controls=[] if template is None else template.unknown_controls,
        sources={
            name: SourceReport(**vars(tally.account()), quality=measures.quality_of(part))
            for name, tally, part in zip(names, tallies, facts, strict=True)
        },
        other_names=[n for source in work.sources for n in source_files.other_names(source)],
    )
    row_facts.save(work.job.directory, whole)
    cache_files.write_cache_report(work.job.directory, report)


def _judge(bad: Sequence[BadRow], num_bad: int, total: Tally, data: Data) -> None:
    """Raises DataError if there are more bad rows than data.bad_rows allows, or no example."""
    rows = total.counts["rows_in"]
    allowed = data.max_bad_rows if data.bad_rows == "skip" else 0
    if num_bad > allowed or (data.overlong == "error" and total.dropped["overlong"]):
        kinds = {row.kind: total.dropped[row.kind] for row in bad}
        lines = bad_rows.listed(bad, kinds)
        said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        lines.append(f"{num_bad} of {rows} rows can't be used" + f": {said}" * (len(kinds) > 1))
        if allowed and num_bad > allowed:
            lines.append(f"data.bad_rows='skip' allows max_bad_rows={allowed}")
        raise DataError("\n".join(lines))
    if not total.counts["examples"]:
        raise DataError(f"none of {rows} rows gives an example: {dict(total.dropped)}")
