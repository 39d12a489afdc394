"""A training cache without the rows that are held out or repeat others, and a cache of the former.

Both are parts of the whole cache: what is on disk for them says which of its examples they have, so
that another share or seed tokenizes nothing again.
"""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.config import Data
from jaxsft.data.cache import store as cache_files
from jaxsft.data.cache.manifest import CacheReport, SourceReport
from jaxsft.data.cache.prepare import publish
from jaxsft.data.cache.store import Cache
from jaxsft.data.encode.account import Account, SomeRows, account_of, account_without
from jaxsft.data.encode.tokenizer_files import file_digest
from jaxsft.data.quality import division, measures, row_statistics
from jaxsft.data.quality.division import Division
from jaxsft.data.quality.row_statistics import Facts
from jaxsft.errors import DataError
from jaxsft.files import places
from jaxsft.files.caches import cache_name

HOLDOUT = "holdout"  # the name of the set that is held out


HELD_OUT = "held out: an evaluation row, by data.holdout"
REASONS = (HELD_OUT, division.EXACT, division.NEAR, division.NOT_SHARED)
_APART = "apart.npy"
RowKey = tuple[int, str, int]  # index of the source, file, row


def divides(data: Data) -> bool:
    """Whether the config takes rows of the training data out."""
    return data.holdout is not None or data.duplicates != "keep" or data.share is not None


def divided(whole: Cache, data: Data) -> tuple[Cache, Cache | None]:
    """What of the cache is trained on, and what of it is held out, if anything is.

    Raises:
        DataError: there are too few rows for data.holdout.
    """
    if not divides(data):
        return whole, None
    options = {
        "holdout": [type(data.holdout).__name__, data.holdout],
        "seed": None if data.holdout is None else data.holdout_seed,
        "duplicates": data.duplicates,
        "share": data.share,
    }
    made_of = [whole.fingerprint, options, file_digest(Path(__file__))]
    names = ("trained", HOLDOUT) if data.holdout is not None else ("trained",)
    prints = [hashlib.sha256(json.dumps([n, *made_of]).encode()).hexdigest() for n in names]
    places_of = [whole.directory.parent / one[:32] for one in prints]
    if not all((directory / cache_files.MANIFEST).is_file() for directory in places_of):
        parts = _Parts(whole, data)
        with places.using(cache_name(data.cache_dir), whole.directory.parent):
            for directory, one, held in zip(places_of, prints, (False, True), strict=False):
                _make(directory, parts, held, one, options)
    train, *others = [Cache(directory, whole.files, whole.tokens) for directory in places_of]
    return train, others[0] if others else None


def rows_apart(trained: Cache) -> dict[RowKey, str]:
    """Why rows aren't trained that could be, of a cache that `divided` made.

    Raises:
        DataError: the file that says it can't be read.
    """
    rows = cache_files.read_array(trained.directory / _APART).tolist()
    return {(s, trained.files[file], row): REASONS[why] for s, file, row, why in rows}


def _make(
    directory: Path, parts: "_Parts", held: bool, fingerprint: str, options: Mapping[str, Any]
) -> None:
    making = Path(tempfile.mkdtemp(prefix=f"{directory.name}.tmp-", dir=directory.parent))
    try:
        parts.write(making, held, fingerprint, options)
        publish(making, directory)
    finally:
        shutil.rmtree(making, ignore_errors=True)


class _Parts:
    """The rows of a cache by what becomes of them.

    R: rows that give examples, C: ROW_COUNTS.
    """

    def __init__(self, whole: Cache, data: Data):
        self._whole = whole
        self._facts: Facts = row_statistics.load(whole.directory)
        self._counts_RC = cache_files.read_row_counts(whole.directory)
        rows = whole.rows
        begins = np.ones(len(rows), bool)  # a row's examples stand one after another
        begins[1:] = (rows[1:] != rows[:-1]).any(axis=1)
        self._row_of = np.cumsum(begins) - 1  # of each example
        self._source_of = rows[begins, 0]  # of each row
        if not len(self._source_of) == len(self._facts) == len(self._counts_RC):
            raise cache_files.damaged(
                whole.directory, f"{len(self._facts)} facts of {len(self._source_of)} rows"
            )
        self._division: Division = division.divide(
            self._facts, data.duplicates, data.holdout, data.holdout_seed, data.share
        )
        if not len(self._division.trained):
            raise DataError(f"config.data.holdout={data.holdout}: no row is left to train on")

    def write(
        self, directory: Path, held: bool, fingerprint: str, options: Mapping[str, Any]
    ) -> None:
        """Writes the cache of what is held out, or else of what is trained."""
        rows = self._division.held_out if held else self._division.trained
        examples = np.flatnonzero(np.isin(self._row_of, rows))
        cache_files.write_part(directory, self._whole, examples)
        row_statistics.save(directory, row_statistics.taken(self._facts, rows))
        if not held:
            cache_files.write_array(directory / _APART, self._apart())
        report = self._held_out_report() if held else self._trained_report()
        cache_files.write_cache_report(directory, report)
        manifest = self._whole.manifest
        inputs = {**manifest.inputs, "divided": [self._whole.fingerprint, dict(options)]}
        cache_files.write_manifest(
            directory, dataclasses.replace(manifest, fingerprint=fingerprint, inputs=inputs)
        )

    def _apart(self) -> np.ndarray:
        """int64 [R, 4] of each row that isn't trained: source, file, row, index of its reason."""
        first_of = np.searchsorted(self._row_of, np.arange(len(self._source_of)))
        kinds = [self._division.held_out, *self._division.dropped.values()]
        names = [REASONS.index(name) for name in (HELD_OUT, *self._division.dropped)]
        why = np.repeat(names, [len(rows) for rows in kinds]).astype(np.int64)
        return np.column_stack([self._whole.rows[first_of[np.concatenate(kinds)]], why])

    def _trained_report(self) -> CacheReport:
        whole, rows = self._whole.report, self._division.trained
        return dataclasses.replace(
            whole,
            **self._figures(rows, None, self._account_without(whole, None)),
            duplicates=self._division.examples,
            sources={
                name: SourceReport(**self._figures(rows, n, self._account_without(report, n)))
                for n, (name, report) in enumerate(whole.sources.items())
            },
        )

    def _held_out_report(self) -> CacheReport:
        rows = self._division.held_out
        sources = {
            name: SourceReport(**self._figures(rows, n, account_of(self._counted(rows, n))))
            for n, name in enumerate(self._whole.report.sources)
            if len(self._of(rows, n))
        }
        whole = self._figures(rows, None, account_of(self._counted(rows, None)))
        return CacheReport(**whole, sources=sources)

    def _figures(self, rows: np.ndarray, source: int | None, account: Account) -> dict[str, Any]:
        """Fields of a SourceReport of some rows, of one source or all."""
        facts = row_statistics.taken(self._facts, self._of(rows, source))
        return {**vars(account), "quality": measures.quality_of(facts)}

    def _account_without(self, report: Account, source: int | None) -> Account:
        names = [field.name for field in dataclasses.fields(Account)]
        return account_without(
            Account(**{name: getattr(report, name) for name in names}),
            self._counted(self._division.held_out, source),
            {
                reason: self._counted(rows, source)
                for reason, rows in self._division.dropped.items()
            },
        )

    def _counted(self, rows: np.ndarray, source: int | None) -> SomeRows:
        return SomeRows.of(self._counts_RC[self._of(rows, source)])

    def _of(self, rows: np.ndarray, source: int | None) -> np.ndarray:
        return rows if source is None else rows[self._source_of[rows] == source]
