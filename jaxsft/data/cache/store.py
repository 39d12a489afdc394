"""Prepared examples on disk: ids and weights end to end, their lengths, a manifest, a report.

A shard is what one call of `shards.encode_shard` made; `join_shards` puts the files of shards one
after another, so that any example is a slice of one array mapped from disk.

N: examples; S: shards.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.data.cache.manifest import CacheReport, Manifest
from jaxsft.data.conversation import TeacherTargets
from jaxsft.data.encode.tokenize import Example
from jaxsft.errors import DataError
from jaxsft.files import places, records
from jaxsft.files.caches import unreadable
from jaxsft.terminal.redact import redacted_values

MANIFEST = "manifest.json"  # written last: a directory that has one is whole
REPORT = "report.json"
_PLACES = "examples.npy"  # of a cache that is a part of another
_ROW_COUNTS = "row_counts.npz"
IdsAndWeights = tuple[np.ndarray, np.ndarray]  # ids int32, weights float32
_ARRAYS = {"ids": np.dtype("<i4"), "weights": np.dtype("<f4")}
# What a teacher said: for each supervised target as many numbers as its example's width.
_TAUGHT = {"ids_SX": np.dtype("<i4"), "logprobs_SX": np.dtype("<f4")}


class Cache:
    """Random access to the examples of a prepared directory.

    Args:
        files: whose names the arrays hold as numbers.
        tokens: of the cache that this one is a part of; None: it has its own.

    Attributes:
        lengths: int64 [N], tokens of each example.
        supervised: int64 [N], targets with weight of each example.
        sources: int64 [N], index of the source of each example.

    Raises:
        DataError: the directory does not hold what its manifest says.
    """

    def __init__(self, directory: Path, files: Sequence[str], tokens: "Tokens | None" = None):
        self.directory = directory
        self.files = tuple(files)
        self.manifest = records.from_json(Manifest, _read_json(directory / MANIFEST))
        self.report = records.from_json(CacheReport, _read_json(directory / REPORT))
        self.lengths = read_array(directory / "lengths.npy")
        self.supervised = read_array(directory / "supervised.npy")
        rows = read_array(directory / "rows.npy")
        self.sources, self._rows = rows[:, 0], rows[:, 1:]
        # Which examples of `tokens` these are; None: all.
        self._places = None if tokens is None else read_array(directory / _PLACES)
        sizes = [size for size, *_ in self.manifest.shards]
        num_stored = sum(sizes) if self._places is None else len(self._places)
        if not len(self.lengths) == len(rows) == num_stored:
            raise damaged(directory, f"{len(self.lengths)} lengths but {num_stored} examples")
        self.tokens = tokens or Tokens(
            directory, self.manifest.shards, self.lengths, self.supervised
        )

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def __len__(self) -> int:
        return len(self.lengths)

    def source_of(self, index: int) -> tuple[str, int]:
        """File and row of an example."""
        file, row = self._rows[index].tolist()
        return self.files[file], row

    @property
    def rows(self) -> np.ndarray:
        """int64 [N, 3]: source, file (an index of `files`) and row of each example, rising."""
        return np.column_stack([self.sources, self._rows])

    def examples(self, indices: Sequence[int]) -> list[IdsAndWeights]:
        """(ids, weights) of each index, in the order asked for.

        Raises:
            DataError: the files changed since they were written.
        """
        wanted = np.asarray(indices, np.int64)
        return self.tokens.examples(wanted if self._places is None else self._places[wanted])

    @property
    def widths(self) -> np.ndarray:
        """int64 [N]: tokens that a teacher named for a target of each example; 0: it was none."""
        widths = self.tokens.widths
        return widths if self._places is None else widths[self._places]

    def taught(self, indices: Sequence[int]) -> list[TeacherTargets]:
        """What a teacher said of the targets of each index, in the order asked for."""
        wanted = np.asarray(indices, np.int64)
        return self.tokens.taught(wanted if self._places is None else self._places[wanted])


class Tokens:
    """The ids and weights of all examples that one call of `prepare` made, mapped from disk.

    Args:
        shards: examples and checksums of each, as in the manifest.
        lengths: int64 [N], tokens of each example.
        supervised: int64 [N], targets with weight of each example.
    """

    def __init__(
        self,
        directory: Path,
        shards: Sequence[Sequence[int]],
        lengths: np.ndarray,
        supervised: np.ndarray,
    ):
        self._directory = directory
        self._shards = shards
        self._lengths = lengths
        sizes = [size for size, *_ in shards]
        self._shard_of = np.repeat(np.arange(len(sizes)), sizes)
        self._verified = np.zeros(len(sizes), bool)
        self._stops = np.cumsum(lengths)
        num_tokens = int(lengths.sum())
        self._ids, self._weights = (self._map(n, d, num_tokens) for n, d in _ARRAYS.items())
        self.widths = read_array(directory / "widths.npy")
        self._taught_sizes = supervised * self.widths
        self._taught_stops = np.cumsum(self._taught_sizes)
        num_taught = int(self._taught_sizes.sum())
        self._taught = [self._map(n, d, num_taught) for n, d in _TAUGHT.items()]

    def examples(self, wanted: np.ndarray) -> list[IdsAndWeights]:
        """(ids, weights) of each index, in the order asked for.

        Raises:
            DataError: the files changed since they were written.
        """
        self._verify_shards_of(wanted)
        stops = self._stops[wanted]
        starts = (stops - self._lengths[wanted]).tolist()
        ids, weights = self._ids, self._weights
        return [(ids[a:b], weights[a:b]) for a, b in zip(starts, stops.tolist(), strict=True)]

    def taught(self, wanted: np.ndarray) -> list[TeacherTargets]:
        """What a teacher said of the targets of each index, in the order asked for.

        Raises:
            DataError: the files changed since they were written.
        """
        self._verify_shards_of(wanted)
        found = []
        for index in wanted.tolist():
            stop, width = self._taught_stops[index], int(self.widths[index])
            start = stop - self._taught_sizes[index]
            parts = (a[start:stop].reshape(-1, max(width, 1)) for a in self._taught)
            found.append(TeacherTargets(*parts))
        return found

    def _map(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        path = _joined_path(self._directory, name)
        size = path.stat().st_size if path.is_file() else None
        if size != count * dtype.itemsize:
            raise damaged(self._directory, f"{path.name} has {size} bytes for {count} numbers")
        # A plain view: slices of np.memmap itself are ten times as slow.
        return np.asarray(np.memmap(path, dtype, "r")) if count else np.zeros(0, dtype)

    def _verify_shards_of(self, wanted: np.ndarray) -> None:
        shards = self._shard_of[wanted]
        for shard in np.unique(shards[~self._verified[shards]]).tolist():
            self._verify(shard)

    def _verify(self, shard: int) -> None:
        first, last = np.searchsorted(self._shard_of, [shard, shard + 1])
        of_tokens = slice(self._stops[first] - self._lengths[first], self._stops[last - 1])
        of_taught = slice(
            self._taught_stops[first] - self._taught_sizes[first], self._taught_stops[last - 1]
        )
        parts = [self._ids[of_tokens], self._weights[of_tokens]]
        parts += [array[of_taught] for array in self._taught]
        _, *expected = self._shards[shard]
        for part, checksum in zip(parts, expected, strict=True):
            if zlib.crc32(part.data) != checksum:
                raise damaged(
                    self._directory, f"examples {first} to {last - 1} differ from their checksum"
                )
        self._verified[shard] = True


def damaged(directory: Path, what: str) -> DataError:
    return DataError(f"{directory}: {what}; delete the directory to prepare it again")


def write_part(directory: Path, whole: Cache, chosen: np.ndarray) -> None:
    """Writes what a cache of some examples of another has of arrays, but for their tokens.

    Args:
        chosen: int64, the examples' indices, rising.
    """
    write_array(directory / _PLACES, chosen)
    write_array(directory / "lengths.npy", whole.lengths[chosen])
    write_array(directory / "supervised.npy", whole.supervised[chosen])
    write_array(directory / "rows.npy", whole.rows[chosen])


def write_row_counts(directory: Path, counts_RC: np.ndarray) -> None:
    """Writes `account.ROW_COUNTS` of each row that gives an example; nearly all of it is 0."""
    with places.using(str(directory / _ROW_COUNTS)):
        np.savez_compressed(directory / _ROW_COUNTS, counts=counts_RC)


def read_row_counts(directory: Path) -> np.ndarray:
    """What `write_row_counts` wrote."""
    try:
        with (directory / _ROW_COUNTS).open("rb") as file, np.load(file) as arrays:
            return arrays["counts"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(directory / _ROW_COUNTS, error) from None


def write_shard(directory: Path, shard: str, examples: Iterable[Example]) -> tuple[int, ...]:
    """Writes the examples of one shard; returns their number and the checksum of each array."""
    kept = list(examples)
    checksums = []
    every = [(name, dtype, [getattr(e, name) for e in kept]) for name, dtype in _ARRAYS.items()]
    taught = [e.teacher for e in kept if e.teacher is not None]
    every += [(n, dtype, [getattr(t, n).ravel() for t in taught]) for n, dtype in _TAUGHT.items()]
    for name, dtype, parts in every:
        arrays = [np.asarray(part, dtype) for part in parts]
        flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype)
        path = _shard_path(directory, name, shard)
        with places.using(str(path)):  # numpy says how much it wrote, but not where
            flat.tofile(path)
        checksums.append(zlib.crc32(flat.data))
    return len(kept), *checksums


def join_shards(directory: Path, shards: Sequence[str]) -> None:
    """Moves the tokens of the shards, in this order, into one file for each array."""
    for name in (*_ARRAYS, *_TAUGHT):
        target = _joined_path(directory, name)
        with places.using(str(target)), target.open("wb") as whole:
            for shard in shards:
                path = _shard_path(directory, name, shard)
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole, 2**24)
                path.unlink()


def _joined_path(directory: Path, name: str) -> Path:
    return directory / (f"{name}.bin" if name in _ARRAYS else f"teacher_{name}.bin")


def _shard_path(directory: Path, name: str, shard: str) -> Path:
    return directory / f"{name}-{shard}.tmp"


def read_array(path: Path) -> np.ndarray:
    """What `write_array` wrote."""
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from None


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes the array as int64 in numpy's format."""
    with places.using(str(path)):
        np.save(path, array.astype(np.int64))


def write_cache_report(directory: Path, report: CacheReport) -> None:
    """Writes report.json, without what is secret in names and paths."""
    write_json(directory / REPORT, redacted_values(records.to_json(report)))


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes manifest.json, which says that the directory is whole."""
    write_json(directory / MANIFEST, records.to_json(manifest))


def write_json(path: Path, value: Any) -> None:
    """Writes what json.dumps takes, indented.

    Raises:
        UserError: the disk is full, or can't be written.
    """
    with places.using(str(path)):
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
