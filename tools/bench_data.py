"""Measures the data path: fill of packed rows, planning, assembly, tokens per second, cores.

    python tools/bench_data.py --data=A.jsonl,B.jsonl --tokenizer=DIR --template=F.jinja \\
        [--rounds=12] [--copies=8] [--peer_python=PYTHON] [--output=F.json]

The last four figures take the first file. --peer_python is an interpreter that has TRL: the same
rows go through its preparation in turn with ours, and the figure is the median of the ratios.
"""

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Data, Source
from jaxsft.data.cache import prepare
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack import packing

_DATA = flags.DEFINE_list("data", None, "Files of conversations.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Directory of the tokenizer.")
_TEMPLATE = flags.DEFINE_string("template", None, "A .jinja file; the tokenizer's own if not set.")
_LENGTHS = flags.DEFINE_list("sequence_lengths", ["1024", "2048", "8192"], "Tokens of a row.")
_ROUNDS = flags.DEFINE_integer("rounds", 12, "Times that each is measured.", lower_bound=1)
_COPIES = flags.DEFINE_integer("copies", 8, "Of the first file, to share among processes.")
_PEER = flags.DEFINE_string("peer_python", None, "An interpreter that has TRL.")
_OUTPUT = flags.DEFINE_string("output", None, "File for the figures, as JSON.")


def prepared(path: str, length: int = 8192, workers: int = 1, copies: int = 1) -> tuple:
    """A fresh cache of the file and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        data = Data(
            train=(),
            sequence_length=length,
            cache_dir=folder,
            workers=workers,
            template=_TEMPLATE.value,
        )
        start = time.perf_counter()
        cache = prepare.prepare((Source(path=path),) * copies, data, _TOKENIZER.value)
        return cache, time.perf_counter() - start


def fill(cache: Cache, length: int) -> dict[str, float]:
    lengths = cache.lengths[cache.lengths <= length]
    rows = packing.num_rows(lengths, length)
    return {"rows": rows, "fill": float(lengths.sum() / (rows * length))}


def plan_seconds(count: int = 1_000_000) -> float:
    lengths = np.random.default_rng(0).lognormal(5.2, 1.0, count).astype(int).clip(1, 2048)
    start = time.perf_counter()
    packing.plan_rows(lengths, 2048, 0, 0)
    return time.perf_counter() - start


def tokens_per_second(cache: Cache, length: int = 2048, rows: int = 32) -> float:
    """Slots of packed rows assembled in a second of this process's time."""
    kept = np.flatnonzero(cache.lengths <= length)
    plan = packing.plan_rows(cache.lengths[kept], length, 0, 0)
    start, slots = time.process_time(), 0
    for _ in range(5):
        for first in range(0, max(1, plan.num_rows - rows), rows):
            numbers = range(first, min(first + rows, plan.num_rows))
            packing.build_rows(lambda at: cache.examples(kept[at]), plan, numbers, length)
            slots += len(numbers) * length
    return slots / (time.process_time() - start)


def peer_seconds(peer: subprocess.Popen) -> float:
    peer.stdin.write("\n")
    peer.stdin.flush()
    return float(peer.stdout.readline())


def main() -> None:
    figures: dict = {"fill": {}}
    caches = {path: prepared(path)[0] for path in _DATA.value}
    for path, cache in caches.items():
        figures["fill"][Path(path).parent.name] = {t: fill(cache, int(t)) for t in _LENGTHS.value}
    first = _DATA.value[0]
    rows = caches[first].report.rows_in
    median = statistics.median
    figures["plan_seconds"] = median(plan_seconds() for _ in range(_ROUNDS.value))
    assembled = [tokens_per_second(caches[first]) for _ in range(_ROUNDS.value)]
    figures["assembled_tokens_per_second"] = median(assembled)
    ours, theirs = [], []
    arguments = [str(Path(__file__).with_name("bench_data_trl.py")), first, _TOKENIZER.value]
    command = [_PEER.value, *arguments, *([_TEMPLATE.value] if _TEMPLATE.value else [])]
    peer = subprocess.Popen(command, stdin=-1, stdout=-1, text=True) if _PEER.value else None
    for _ in range(_ROUNDS.value):
        ours.append(prepared(first)[1])
        theirs += [peer_seconds(peer)] if peer else []
    figures["rows_per_second"] = rows / median(ours)
    if peer:
        figures["trl_rows_per_second"] = rows / median(theirs)
        figures["trl_ratio"] = median(b / a for a, b in zip(ours, theirs, strict=True))
        peer.communicate()
    pairs = [[prepared(first, 8192, n, _COPIES.value)[1] for n in (1, 2)] for _ in range(3)]
    figures["two_processes_ratio"] = median(one / two for one, two in pairs)
    figures["two_processes_rows"] = rows * _COPIES.value
    text = json.dumps(figures, indent=2)
    print(text)
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(text + "\n")


if __name__ == "__main__":
    jaxsft_flags.run_tool(main, ("data", "tokenizer"))
