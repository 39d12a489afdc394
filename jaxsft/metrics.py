"""What a run did per step: counters, floating-point operations, and the file they go to."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, SupportsFloat

from jaxsft.model import moe_settings, settings


@dataclasses.dataclass(frozen=True)
class BatchCounts:
    """What the host knows of one global batch."""

    tokens: int  # not padding
    slots: int  # rows x sequence length
    attention_pairs: int  # (query, key) pairs that attention must form: sum of s (s + 1) / 2
    examples: int

    def __add__(self, other: "BatchCounts") -> "BatchCounts":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return BatchCounts(*(a + b for a, b in pairs))


def training_flops(s: settings.Decoder, counts: BatchCounts, supervised_tokens: float) -> float:
    """Operations that training on these tokens needs: no padding, recomputation or masked pairs.

    Six per weight and token (two forward, four backward), the head on supervised tokens only, and
    attention twelve per pair, head and head_dim. Of experts, those that a token uses. Embedding
    look-ups cost none. A layer with a window has at most `window` pairs a token: a little too many
    where rows begin.
    """
    attention = 2 * s.embed_dim * s.num_heads * s.head_dim
    attention += 2 * s.embed_dim * s.num_kv_heads * s.head_dim
    if s.moe is None:
        mlp = (3 if s.mlp_gated else 2) * s.embed_dim * s.mlp_dim
    else:
        mlp = moe_settings.active_parameters(s.moe, s.embed_dim)
    weights = s.num_layers * (attention + mlp)
    head = s.embed_dim * s.vocab_size
    pairs = sum(
        counts.attention_pairs
        if kind.window is None
        else min(counts.attention_pairs, kind.window * counts.tokens)
        for kind in s.kinds()
    )
    attention = 12 * s.num_heads * s.head_dim * pairs
    return 6 * weights * counts.tokens + 6 * head * supervised_tokens + attention


def finite(value: SupportsFloat) -> float | None:
    """The number, or None (null in JSON) for NaN and infinities."""
    return float(value) if math.isfinite(float(value)) else None


class JsonLines:
    """A file of one JSON object a line, such as metrics.jsonl.

    Args:
        writes: False on all processes but the first: they neither read nor write.
    """

    def __init__(self, path: Path, writes: bool = True):
        self._path = path
        self._writes = writes

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a line that a killed process left half-written is not one."""
        if not self._writes or not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Forgets the other lines, such as those after the checkpoint that a run resumes from."""
        if self._writes:
            lines = [json.dumps(line) + "\n" for line in self.read() if wanted(line)]
            new = self._path.with_suffix(".tmp")
            new.write_text("".join(lines), encoding="utf-8")
            new.replace(self._path)

    def append(self, values: dict[str, Any]) -> None:
        if self._writes:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, allow_nan=False) + "\n")
