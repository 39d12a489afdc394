"""Prepared examples on disk: ids and weights end to end, their lengths, a manifest, a report.

A shard is what one call of `shards.encode_shard` made; `join_shards` puts the files of shards one
after another, so that any example is a slice of one array mapped from disk.

N: examples; S: shards.
"""

import json
import shutil
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsft.data.cache.manifest import CacheReport, Manifest
from jaxsft.data.encode.tokenize import Example
from jaxsft.errors import DataError
from jaxsft.files import places, records
from jaxsft.files.caches import unreadable
from jaxsft.terminal.redact import redacted_values

MANIFEST = "manifest.json"  # written last: a directory that has one is whole
REPORT = "report.json"
IdsAndWeights = tuple[np.ndarray, np.ndarray]  # ids int32, weights float32
_ARRAYS = {"ids": np.dtype("<i4"), "weights": np.dtype("<f4")}


class Cache:
    """Random access to the examples of a prepared directory.

    Attributes:
        lengths: int64 [N], tokens of each example.
        supervised: int64 [N], targets with weight of each example.
        sources: int64 [N], index of the source of each example.

    Raises:
        DataError: the directory does not hold what its manifest says.
    """

    def __init__(self, directory: Path, files: Sequence[str]):
        self.directory = directory
        self.manifest = records.from_json(Manifest, _read_json(directory / MANIFEST))
        self.report = records.from_json(CacheReport, _read_json(directory / REPORT))
        self.lengths = _load(directory / "lengths.npy")
        self.supervised = _load(directory / "supervised.npy")
        rows = _load(directory / "rows.npy")
        self.sources, self._rows = rows[:, 0], rows[:, 1:]
        self._files = tuple(files)
        sizes = [size for size, *_ in self.manifest.shards]
        self._shard_of = np.repeat(np.arange(len(sizes)), sizes)
        self._verified = np.zeros(len(sizes), bool)
        num_tokens = int(self.lengths.sum())
        if not len(self.lengths) == len(rows) == sum(sizes):
            raise self._damaged(f"{len(self.lengths)} lengths but {sum(sizes)} examples")
        self._stops = np.cumsum(self.lengths)
        self._ids, self._weights = (self._map(name, num_tokens) for name in _ARRAYS)

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def __len__(self) -> int:
        return len(self.lengths)

    def source_of(self, index: int) -> tuple[str, int]:
        """File and row of an example."""
        file, row = self._rows[index].tolist()
        return self._files[file], row

    def examples(self, indices: Sequence[int]) -> list[IdsAndWeights]:
        """(ids, weights) of each index, in the order asked for.

        Raises:
            DataError: the files changed since they were written.
        """
        wanted = np.asarray(indices, np.int64)
        shards = self._shard_of[wanted]
        for shard in np.unique(shards[~self._verified[shards]]).tolist():
            self._verify(shard)
        stops = self._stops[wanted]
        starts = (stops - self.lengths[wanted]).tolist()
        ids, weights = self._ids, self._weights
        return [(ids[a:b], weights[a:b]) for a, b in zip(starts, stops.tolist(), strict=True)]

    def _map(self, name: str, num_tokens: int) -> np.ndarray:
        path, dtype = self.directory / f"{name}.bin", _ARRAYS[name]
        size = path.stat().st_size if path.is_file() else None
        if size != num_tokens * dtype.itemsize:
            raise self._damaged(f"{path.name} has {size} bytes for {num_tokens} tokens")
        # A plain view: slices of np.memmap itself are ten times as slow.
        return np.asarray(np.memmap(path, dtype, "r")) if num_tokens else np.zeros(0, dtype)

    def _verify(self, shard: int) -> None:
        first, last = np.searchsorted(self._shard_of, [shard, shard + 1])
        start = self._stops[first] - self.lengths[first]
        _, *expected = self.manifest.shards[shard]
        for array, checksum in zip((self._ids, self._weights), expected, strict=True):
            if zlib.crc32(array[start : self._stops[last - 1]].data) != checksum:
                raise self._damaged(f"examples {first} to {last - 1} differ from their checksum")
        self._verified[shard] = True

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self.directory}: {what}; delete the directory to prepare it again")


def write_shard(directory: Path, shard: str, examples: Iterable[Example]) -> tuple[int, ...]:
    """Writes the examples of one shard; returns their number and the checksum of each array."""
    kept = list(examples)
    checksums = []
    for name, dtype in _ARRAYS.items():
        arrays = [np.asarray(getattr(example, name), dtype) for example in kept]
        flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype)
        path = _shard_path(directory, name, shard)
        with places.using(str(path)):  # numpy says how much it wrote, but not where
            flat.tofile(path)
        checksums.append(zlib.crc32(flat.data))
    return len(kept), *checksums


def join_shards(directory: Path, shards: Sequence[str]) -> None:
    """Moves the tokens of the shards, in this order, into one file for each array."""
    for name in _ARRAYS:
        target = directory / f"{name}.bin"
        with places.using(str(target)), target.open("wb") as whole:
            for shard in shards:
                path = _shard_path(directory, name, shard)
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole, 2**24)
                path.unlink()


def _shard_path(directory: Path, name: str, shard: str) -> Path:
    return directory / f"{name}-{shard}.tmp"


def _load(path: Path) -> np.ndarray:
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
