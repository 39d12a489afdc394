"""Answers of an evaluation as rows of a table."""

from collections.abc import Sequence
from typing import Any

COLUMNS = ["how", "set", "prompt", "answer", "reference", "scores"]


def rows_of(samples: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row each, in the order of COLUMNS.

    Args:
        samples: objects of samples.jsonl.
    """
    return [
        [
            *(str(one.get(key) or "") for key in ("phase", "source", "prompt", "answer")),
            str(one.get("reference") or ""),
            ", ".join(f"{name} {value}" for name, value in (one.get("scores") or {}).items()),
        ]
        for one in samples
    ]
