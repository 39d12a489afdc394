"""Measures how far a step's busiest device is above the mean, with and without order in a batch.

    python tools/bench_balance.py --data=A.jsonl,B.jsonl --tokenizer=DIR --model=DIR \\
        [--template=F.jinja] [--sequence_length=4096] [--devices=8,32] [--rows=4] \\
        [--microbatches=1,4]

--rows are those of a device in a step. Costs are the operations that jaxsft counts: each position
of a row, each target, each (query, key) pair. Nothing runs on a device; steps are the full ones of
an epoch.
"""

import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Data, Source
from jaxsft.convert import pretrained
from jaxsft.data.cache import prepare
from jaxsft.data.cache.store import Cache
from jaxsft.data.pack import balance, packing
from jaxsft.data.pack.balance import RowCost
from jaxsft.data.pack.epochs import epochs_of
from jaxsft.training.flops import row_cost

_DATA = flags.DEFINE_list("data", None, "Files of conversations.")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "Directory of the tokenizer.")
_TEMPLATE = flags.DEFINE_string("template", None, "A .jinja file; the tokenizer's own if not set.")
_MODEL = flags.DEFINE_string("model", None, "Directory of the model whose work is counted.")
_LENGTH = flags.DEFINE_integer("sequence_length", 4096, "Tokens of a row.", 1)
_DEVICES = flags.DEFINE_list("devices", ["8", "32"], "That have rows of their own.")
_ROWS = flags.DEFINE_integer("rows", 4, "Of a device in a step.", 1)
_MICROBATCHES = flags.DEFINE_list("microbatches", ["1", "4"], "Of a step; they divide the rows.")


def main() -> None:
    cost = row_cost(pretrained.open_pretrained(_MODEL.value, weights=False).settings)
    print("| data | devices | micro-batches | steps | before | in order |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in _DATA.value:
        with tempfile.TemporaryDirectory() as folder:
            data = Data(
                train=(),
                sequence_length=_LENGTH.value,
                cache_dir=folder,
                template=_TEMPLATE.value,
                overlong="drop",
            )
            cache = prepare.prepare((Source(path=path),), data, _TOKENIZER.value)
            for devices in map(int, _DEVICES.value):
                for parts in map(int, _MICROBATCHES.value):
                    before, after = imbalances(cache, cost, devices, parts)
                    if not before:
                        continue  # the epoch is less than one step
                    print(
                        f"| {Path(path).parent.name} | {devices} | {parts} | {len(before)}"
                        f" | {np.mean(before):.3f} | {np.mean(after):.3f} |"
                    )


def imbalances(
    cache: Cache, cost: RowCost, devices: int, microbatches: int
) -> tuple[list[float], list[float]]:
    """Busiest over mean of each full step, with the rows as they are drawn and in order."""
    length, count = _LENGTH.value, devices * _ROWS.value
    epochs = epochs_of(cache, None, sequence_length=length, batch_size=count, seed=0)
    before, after = [], []
    for step in range(epochs.num_rows // count):
        plan, rows = epochs.rows(step)
        assert packing.PADDING_ROW not in rows
        members = [plan.row(row) for row in rows]
        costs_B = cost.of_rows(
            length,
            [cache.lengths[row] for row in members],
            [int(cache.supervised[row].sum()) for row in members],
        )
        order = balance.balanced(costs_B, devices, microbatches)
        for costs, found in ((costs_B, before), (costs_B[order], after)):
            found.append(balance.busiest(costs, devices, microbatches) * devices / costs.sum())
    return before, after


if __name__ == "__main__":
    jaxsft_flags.run_tool(main, required=("data", "tokenizer", "model"))
