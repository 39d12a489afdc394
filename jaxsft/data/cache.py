"""Prepared examples on disk: shards of ids and weights, their lengths, a manifest, a report."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module  # type: ignore  # compiled, has no stubs

from jaxsft.data.pack import Tokens
from jaxsft.data.tokenize import Example
from jaxsft.errors import DataError

MANIFEST = "manifest.json"  # written last: a directory that has one is whole


class Cache:
    """Random access to the examples of a prepared directory.

    Attributes:
        lengths: int64 [N], tokens of each example.
        manifest: fingerprint, template, template_sha256, end_of_turn_ids, tokenizer_sha256...
        report: what became of every row and token.

    Raises:
        DataError: the directory does not hold what its manifest says.
    """

    def __init__(self, directory: Path, files: Sequence[str]):
        self.directory = directory
        self.manifest = read_json(directory / MANIFEST)
        self.report = read_json(directory / "report.json")
        self.lengths: np.ndarray = np.load(directory / "lengths.npy")
        self._rows: np.ndarray = np.load(directory / "rows.npy")
        self._files = tuple(files)
        self._shard_stops = np.cumsum(self.manifest["shard_sizes"])
        self._readers: dict[tuple[int, int], Any] = {}  # by process: readers don't survive a fork
        if not len(self.lengths) == len(self._rows) == self._shard_stops[-1]:
            raise DataError(
                f"{directory}: {len(self.lengths)} lengths but {self._shard_stops[-1]} examples; "
                "delete the directory to prepare it again"
            )

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def source_of(self, index: int) -> tuple[str, int]:
        """File and row of an example."""
        source, row = self._rows[index].tolist()
        return self._files[source], row

    def examples(self, indices: Sequence[int]) -> list[Tokens]:
        """(ids, weights) of each index, in the order asked for."""
        wanted = np.asarray(indices, np.int64)
        shards = np.searchsorted(self._shard_stops, wanted, side="right")
        result: list[Any] = [None] * len(wanted)
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            first = self._shard_stops[shard] - self.manifest["shard_sizes"][shard]
            records = self._reader(shard).read((wanted[places] - first).tolist())
            for place, record in zip(places.tolist(), records, strict=True):
                result[place] = _unpacked(record)
        return result

    def _reader(self, shard: int) -> Any:
        key = (os.getpid(), shard)
        if key not in self._readers:
            path = str(self.directory / shard_name(shard))
            self._readers[key] = array_record_module.ArrayRecordReader(path)
        return self._readers[key]


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.array_record"


def write_shard(directory: Path, shard: int, examples: Iterable[Example]) -> None:
    # group_size:1 makes each record readable by itself.
    writer = array_record_module.ArrayRecordWriter(
        str(directory / shard_name(shard)), "group_size:1"
    )
    for example in examples:
        writer.write(_packed(example))
    writer.close()


def _packed(example: Example) -> bytes:
    return example.ids.astype("<i4").tobytes() + example.weights.astype("<f4").tobytes()


def _unpacked(record: bytes) -> Tokens:
    half = len(record) // 2
    ids = np.frombuffer(record, "<i4", count=half // 4)
    return ids, np.frombuffer(record, "<f4", offset=half)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read ({error}); delete {path.parent}") from None
