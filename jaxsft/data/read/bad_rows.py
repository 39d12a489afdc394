"""Bad rows as a user reads them: each cause once, with its rows."""

import re
from collections.abc import Mapping, Sequence

from jaxsft.data.conversation import BadRow
from jaxsft.data.read import columns

_LINES_OF_A_KIND = 5  # causes of one kind that are spelt out
_ROWS_OF_A_KIND = 20  # that are named beside them
_MORE_KINDS = 20  # whose first row is kept, beyond the first rows of all


def listed(bad: Sequence[BadRow], num_of_kind: Mapping[str, int]) -> list[str]:
    """The first row of each cause in full, and the others of its kind by their numbers.

    train.jsonl:3: messages[0] has role 'bot'; expected system, user, assistant or tool
      and 3 more rows (unknown role): train.jsonl:4, 9; eval.jsonl:2

    Args:
        bad: the first ones.
        num_of_kind: how many there are in all.
    """
    kinds: dict[str, list[BadRow]] = {}
    for row in bad:
        kinds.setdefault(row.kind, []).append(row)
    lines = []
    for kind, rows in kinds.items():
        causes: dict[str, BadRow] = {}
        for row in rows:
            causes.setdefault(_cause(row), row)
        shown = list(causes.values())[:_LINES_OF_A_KIND]
        lines += map(str, shown)
        more = num_of_kind.get(kind, len(rows)) - len(shown)
        if more:
            said = f"  and {more:,} more row{'s' * (more > 1)} ({kind})"
            others = [row for row in rows if not any(row is one for one in shown)]
            lines.append(f"{said}: {_places(others, more)}" if others else said)
    return lines


def first_of(bad: Sequence[BadRow], most: int) -> list[BadRow]:
    """The first `most` rows, and behind them the first of each kind that is not among these."""
    kept = list(bad[:most])
    seen = {row.kind for row in kept}
    for row in bad[most:]:
        if row.kind not in seen and len(kept) < most + _MORE_KINDS:
            seen.add(row.kind)
            kept.append(row)
    return kept


def _cause(row: BadRow) -> str:
    """What is equal for rows that are mended alike: not the place in the row, nor its own value."""
    is_column = row.kind.startswith(columns.KIND)
    return row.kind if is_column else re.sub(r"\d+", "0", row.detail)


def _places(rows: Sequence[BadRow], num_in_all: int) -> str:
    """`a.jsonl:3, 7; b.jsonl:1, ...`."""
    files: dict[str, list[str]] = {}
    for row in rows[:_ROWS_OF_A_KIND]:
        files.setdefault(row.file, []).append(str(row.row))
    places = "; ".join(f"{file}:{', '.join(numbers)}" for file, numbers in files.items())
    return places if num_in_all <= min(len(rows), _ROWS_OF_A_KIND) else f"{places}, ..."
