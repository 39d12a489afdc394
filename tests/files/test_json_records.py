"""A record comes back from its JSON as it was, also from that of another version."""

import dataclasses
import json
from collections.abc import Mapping

from jaxsft.files import records


@dataclasses.dataclass(frozen=True)
class Pair:
    first: str = ""
    start: int = records.keyed("from", 0)
    score: float | None = records.where_known()


@dataclasses.dataclass(frozen=True)
class Whole:
    pairs: list[Pair] = dataclasses.field(default_factory=list)
    by_name: Mapping[str, Pair] = dataclasses.field(default_factory=dict)
    one: Pair | None = None
    count: int = 0


WHOLE = Whole([Pair("a", 3), Pair("b", 4, 0.5)], {"x": Pair("c")}, Pair("d"), 7)
TEXT = (
    '{"pairs": [{"first": "a", "from": 3}, {"first": "b", "from": 4, "score": 0.5}],'
    ' "by_name": {"x": {"first": "c", "from": 0}}, "one": {"first": "d", "from": 0}, "count": 7}'
)


def test_there_and_back():
    assert json.dumps(records.to_json(WHOLE)) == TEXT
    assert records.from_json(Whole, json.loads(TEXT)) == WHOLE


def test_a_record_is_kept_in_a_file(tmp_path):
    file = tmp_path / "whole.json"
    assert records.read(Whole, file) == Whole()
    records.write(file, WHOLE)
    assert records.read(Whole, file) == WHOLE


def test_what_the_other_version_lacks_or_has_more():
    assert records.from_json(Whole, {"count": 2, "new": 1, "one": None}) == Whole(count=2)
    assert records.from_json(Whole, {"pairs": [{"last": 1}]}) == Whole([Pair()])
