"""Lines of results.jsonl, written as soon as they are known, and the table of them.

OUT names the folder. TINY=1 asks every part for its smallest size: a dry run on a CPU.
"""

import json
import os
from pathlib import Path
from typing import Any

_NOT_IN_THE_TABLE = frozenset({"part", "versions", "choices", "flags", "shape"})
_MAX_SAID, _MAX_VALUE, _MAX_ROW = 600, 150, 330  # characters


def folder() -> Path:
    found = Path(os.environ.get("OUT", "/tmp/out"))
    found.mkdir(parents=True, exist_ok=True)
    return found


def scratch() -> Path:
    """A folder for what is too large to bring back, shared by the parts."""
    return Path(os.environ.get("SCRATCH", "/tmp/jaxsft_gpu"))


def is_tiny() -> bool:
    return os.environ.get("TINY") == "1"


def put(part: str, **values: Any) -> None:
    line = json.dumps({"part": part, **values}, default=str)
    with (folder() / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print("##", line[:700], flush=True)


def said(error: BaseException) -> str:
    """The error in one line, which a compiler's can be pages of."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return " | ".join(line.strip() for line in lines if line.strip())[:_MAX_SAID]


def table() -> str:
    """A line for each result, without what is long."""
    lines = (folder() / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(["================ TABLE ================", *map(_row, lines)])


def _row(line: str) -> str:
    values = json.loads(line)
    shown = [
        f"{name}={_shown(value)[:_MAX_VALUE]}"
        for name, value in values.items()
        if name not in _NOT_IN_THE_TABLE and value not in (None, "")
    ]
    shape = [str(tuple(values["shape"]))] if "shape" in values else []
    chosen = [values["choices"]["attention"][:60]] if "choices" in values else []
    return " ".join([values["part"], *shape, *shown, *chosen])[:_MAX_ROW]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
