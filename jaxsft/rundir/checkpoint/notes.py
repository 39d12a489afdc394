"""What a checkpoint keeps beside its arrays: JSON that shows when a character of it has changed."""

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxsft.data.cache.manifest import TrainedOn
from jaxsft.files import records

NOTES_FILE = "_CHECKPOINT_METADATA"  # Orbax's, with ours inside
_OURS = "custom_metadata"
# Of what a checkpoint is on disk: greater where older versions would read another state out of it.
# What was written before there was a number has the first.
FORMAT = 1
_FORMAT = "format"
_SEAL = "checksum"  # in the notes; those of before it was written have none


class AlteredNotes(ValueError):
    """What is wrong with NOTES_FILE, as words that follow its name."""


class NewerFormat(ValueError):
    """Of a checkpoint that is whole, and that this version can't read, as words likewise."""


@dataclasses.dataclass(frozen=True)
class Best:
    """The best evaluation of a run so far, and how long it has been waiting for a better one."""

    metric: str = ""
    step: int = 0
    value: float = 0.0
    reference: float = 0.0  # the last value that was better by min_improvement
    waited: int = 0  # evaluations since that one
    seen: int = 0  # step of the newest evaluation


@dataclasses.dataclass(frozen=True)
class Change:
    """A value that decides the result, and was let differ from when the run began."""

    field: str = ""
    before: Any = None
    now: Any = None
    step: int = 0  # after which it differs


@dataclasses.dataclass(frozen=True)
class Notes:
    """Enough to go on with a run, and to export it without its data.

    In those of another version, what it didn't write has its default.
    """

    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # value by config field
    template_date: str | None = None  # None: written before templates were told one
    trained_on: TrainedOn = records.keyed("data", TrainedOn())
    best: Best | None = records.where_known()  # None: nothing evaluated, or no figure followed
    digests: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by a leaf's dotted path
    # Digests of the parameters that are not trained, which no checkpoint holds; None: all are.
    frozen: Mapping[str, int] | None = records.where_known()
    teacher: Mapping[str, int] | None = records.where_known()  # of the model that was learnt from
    changes: Sequence[Change] | None = records.where_known()  # of the starts up to this one


def notes_json(notes: Notes) -> dict[str, Any]:
    """The notes with a number that changes when they do: what they say decides what a run goes on
    as, so that a changed character must not pass for another config."""
    values = {_FORMAT: FORMAT, **records.to_json(notes)}
    return {**values, _SEAL: _seal(values)}


def parse_notes(text: str) -> Notes:
    """The notes in the text of NOTES_FILE.

    Raises:
        AlteredNotes: it has none, or not those that were saved.
        NewerFormat: a later version of this program saved them.
        ValueError: it is no JSON.
    """
    whole = json.loads(text)
    values = whole.get(_OURS) if isinstance(whole, dict) else None
    if not isinstance(values, dict):
        raise AlteredNotes("has no notes of jaxsft")
    if values.get(_SEAL, _seal(values)) != _seal(values) or "digests" not in values:
        raise AlteredNotes("differs from what was saved")
    if (number := values.get(_FORMAT, 1)) not in range(1, FORMAT + 1):
        raise NewerFormat(
            f"has format {number}, and this version of jaxsft reads formats up to {FORMAT}: a newer"
            " one saved it. Go on with that one (pip install --upgrade jaxsft)"
        )
    return records.from_json(Notes, values)


def _seal(values: dict[str, Any]) -> int:
    rest = {name: value for name, value in values.items() if name != _SEAL}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())
