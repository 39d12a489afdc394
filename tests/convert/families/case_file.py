"""What the file of test cases of a family holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

Fields = Mapping[str, Any]  # of config.json


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyCases:
    # Tiny models that transformers makes: what differs from `features.BASE`, by what is tested.
    models: Mapping[str, Fields]
    published: Mapping[str, Fields] = dataclasses.field(default_factory=dict)  # by a model's name
    # What is told of the published ones: a part of each line.
    told: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    # What transformers does not read here, so that it can't change a logit; a part of the line
    # that tells it, or None.
    without_effect: Sequence[tuple[Fields, str | None]] = ()
    refused: Sequence[tuple[Fields, str]] = ()  # with a part of the message
    gguf: Fields | None = None  # of the tiny model that is written as GGUF
