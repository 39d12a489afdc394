"""What the environment asks of XLA's compiler."""

import os
import re

_DETERMINISTIC = re.compile(
    r"--xla_gpu_(?:deterministic_ops|exclude_nondeterministic_ops)(?:=(\w+))?(?!\S)"
)
_NO = ("false", "False", "0")


def deterministic() -> bool:
    """Whether a program shall give the same bits each time it runs on a GPU."""
    asked = _DETERMINISTIC.findall(os.environ.get("XLA_FLAGS", ""))
    return any(value not in _NO for value in asked)
