"""Which batches a list of prompts is answered in: few shapes, so that few programs are compiled.

A size is rounded up to the next of 1, 1.5, 2, 3, 4, 6, 8... times the least one.
"""

import dataclasses
from collections.abc import Sequence

LEAST_SLOTS = 64
LEAST_CHUNK, MOST_CHUNK = 32, 512
MOST_ROWS = 64


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """
    Attributes:
        rows: at least as many as there are prompts.
        chunk: tokens of prompts that are read at once.
        chunks: to read the longest prompt, padding in front.
        slots: of the cache, for prompts and answers.
    """

    rows: int
    chunk: int
    chunks: int
    slots: int


def rounded_up(size: int, least: int) -> int:
    """The least of 1, 1.5, 2, 3, 4, 6... times `least` (which is even) that holds `size`."""
    whole = least
    while whole < size:
        if whole + whole // 2 >= size:
            return whole + whole // 2
        whole *= 2
    return whole


def shape_of(rows: int, longest: int, max_new_tokens: int, row_parts: int) -> BatchShape:
    """
    Args:
        longest: prompt.
        row_parts: among which a mesh splits the rows.
    """
    chunk = LEAST_CHUNK
    while chunk < min(longest, MOST_CHUNK):
        chunk *= 2
    chunks = -(-longest // chunk)
    whole_rows = row_parts
    while whole_rows < rows:
        whole_rows *= 2
    slots = rounded_up(chunks * chunk + max_new_tokens, LEAST_SLOTS)
    return BatchShape(whole_rows, chunk, chunks, slots)


def batches(lengths: Sequence[int], most_rows: int) -> list[list[int]]:
    """Prompts by their index, those of like lengths together, the longest first: what does not fit
    is known at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + most_rows] for start in range(0, len(order), most_rows)]
