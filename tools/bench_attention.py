"""Times attention forward and backward by each back end that works on the first device here.

    python tools/bench_attention.py [--length=8192 --heads=32 --kv_heads=8 --head_dim=128]
        [--segments=1,4,16] [--dtype=bfloat16] [--rows=1] [--rounds=12] [--output=F.json]

Those that can't run, or fail the trainer's own test, are listed with the reason. The others take
turns; the figures are medians. TFLOP/s count causal pairs, 2.5 times more of them backward.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.errors import ConfigError
from jaxsft.kernels.attention import attend, choose
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Use, Visibility

_LENGTH = flags.DEFINE_integer("length", 8192, "Tokens of a row.", 1)
_ROWS = flags.DEFINE_integer("rows", 1, "Rows.", 1)
_HEADS = flags.DEFINE_integer("heads", 32, "Query heads.", 1)
_KV_HEADS = flags.DEFINE_integer("kv_heads", 8, "Key-value heads.", 1)
_HEAD_DIM = flags.DEFINE_integer("head_dim", 128, "Of a head.", 1)
_SEGMENTS = flags.DEFINE_list("segments", ["1", "4", "16"], "Segments of a row, of equal length.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of the arrays.")
_ROUNDS = flags.DEFINE_integer("rounds", 12, "Times that each is measured.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "File for the figures, as JSON.")


def compiled(name: str, arrays: list[jax.Array], segments_BT: jax.Array) -> Callable[[], object]:
    form = AttentionForm(scale=_HEAD_DIM.value**-0.5, back_end=name)

    def loss(q, k, v, d_out, segments_BT):
        visibility = Visibility(segments_BT, segments_BT)
        out = attend.attend(q, KeysAndValues(k, v), visibility, form)
        return jnp.vdot(out, d_out)

    program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays, segments_BT).compile()
    return lambda: jax.block_until_ready(program(*arrays, segments_BT))


def milliseconds(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(_ROUNDS.value + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:  # the first one warms up
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(found) for name, found in taken.items()}


def main() -> None:
    device, rows, length = jax.devices()[0], _ROWS.value, _LENGTH.value
    heads, kv_heads, head_dim = _HEADS.value, _KV_HEADS.value, _HEAD_DIM.value
    use = Use(
        form=AttentionForm(scale=head_dim**-0.5),
        platform=device.platform,
        length=length,
        query_length=length,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=_DTYPE.value,
    )
    refused = {}
    for name in attend.BACK_ENDS:
        try:
            choose.choose(name, use, device)
        except ConfigError as error:
            refused[name] = str(error).partition(": ")[2]
    if rows * heads * length**2 > 2**30:
        refused["xla"] = "would hold all logits at once"
    works = [name for name in attend.BACK_ENDS if name not in refused]
    rng = np.random.default_rng(0)
    shapes = [(rows, length, n, head_dim) for n in (heads, kv_heads, kv_heads, heads)]
    arrays = [jnp.asarray(rng.normal(size=shape), _DTYPE.value) for shape in shapes]
    table = Table("segments", *works, title=f"ms, and TFLOP/s, on {device.device_kind}")
    found: dict[int, dict] = {}
    for count in map(int, _SEGMENTS.value):
        ids = np.arange(length) * count // length + 1
        segments_BT = jnp.asarray(np.broadcast_to(ids, (rows, length)), jnp.int32)
        taken = milliseconds({name: compiled(name, arrays, segments_BT) for name in works})
        pairs = rows * sum(n * (n + 1) // 2 for n in np.bincount(ids).tolist())
        rates = {name: 14 * pairs * heads * head_dim / ms / 1e9 for name, ms in taken.items()}
        table.add_row(str(count), *(f"{taken[name]:.1f} ({rates[name]:.3g})" for name in works))
        found[count] = {name: {"ms": taken[name], "tflops": rates[name]} for name in works}
    Console().print(table, *(f"{name}: {why}" for name, why in refused.items()), sep="\n")
    if _OUTPUT.value:
        report = {"device": device.device_kind, "refused": refused, "segments": found}
        Path(_OUTPUT.value).write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    jaxsft_flags.run_tool(main)
