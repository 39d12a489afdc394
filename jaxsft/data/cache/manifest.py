"""manifest.json and report.json: what a cache holds, and what became of each row and token."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxsft.data.encode.account import Account
from jaxsft.data.quality.figures import Quality, RowPair


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What an export needs to know of the data, without the data."""

    fingerprint: str = ""
    template: str | None = None
    end_of_turn_ids: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a cache was made of, and what its reader must know; digests are SHA-256 in hex."""

    fingerprint: str = ""
    shards: Sequence[Sequence[int]] = ()  # of each its examples, and its arrays' checksums
    template: str | None = None
    template_sha256: str | None = None
    end_of_turn_ids: Sequence[int] = ()
    control_ids: Sequence[int] = ()  # that the template writes
    tokenizer_sha256: str = ""
    files: Sequence[str] = ()
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the fingerprint

    @property
    def trained_on(self) -> TrainedOn:
        return TrainedOn(self.fingerprint, self.template, self.end_of_turn_ids)


@dataclasses.dataclass(frozen=True)
class SourceReport(Account):
    """The account of one source, and how good its rows are."""

    quality: Quality = dataclasses.field(default_factory=Quality)


@dataclasses.dataclass(frozen=True)
class CacheReport(SourceReport):
    """The same of all sources together, and what is known of the whole alone."""

    bad_rows: Sequence[str] = ()
    bad_rows_by_cause: Sequence[str] = ()
    unknown_controls: Sequence[str] = ()  # that a template of the user's writes, but no token is
    sources: Mapping[str, SourceReport] = dataclasses.field(default_factory=dict)
    duplicates: Sequence[RowPair] = ()  # some of those that data.duplicates drops
    other_names: Sequence[str] = ()  # of files that are read already
