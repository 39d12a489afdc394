"""Measures loading: time against safetensors reading the same bytes, and memory beside the arrays.

python tools/bench_load.py [--gigabytes=2] [--dtype=bfloat16] [--parameter_dtype=float32]
    [--rounds=7] [--export]

Writes a random Llama of that size to a temporary folder. Each measurement is a process of its own;
the kinds take turns, and the medians of the rounds' ratios are printed: `safetensors` reads every
tensor into memory as it is, `torch` (where installed) gives it the dtype of the parameters too.
"""

import functools
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
from absl import app, flags
from bench import load

from jaxsft.convert.tensors import safetensors_read

_DTYPES = ("bfloat16", "float32")
_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "size of the checkpoint")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", _DTYPES, "of its tensors")
_KEPT = flags.DEFINE_enum("parameter_dtype", "float32", _DTYPES, "of the loaded parameters")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "measurements of each kind")
_EXPORT = flags.DEFINE_bool("export", False, "measure the export's memory too")
_CHILD = flags.DEFINE_string("child", None, "the kind to measure once, here")
_DIRECTORY = flags.DEFINE_string("directory", None, "the checkpoint to measure")


def main(_) -> None:
    if _CHILD.value:
        print(json.dumps(_measure(_CHILD.value, Path(_DIRECTORY.value))))
        return
    peers = ["safetensors"] + (["torch"] if importlib.util.find_spec("torch") else [])
    with tempfile.TemporaryDirectory() as folder:
        largest = load.write_checkpoint(Path(folder), _GIGABYTES.value, _DTYPE.value)
        kinds = ["jaxsft", *peers]
        rounds = [{k: _run_child(k, folder) for k in kinds} for _ in range(_ROUNDS.value)]
        exported = _run_child("export", folder) if _EXPORT.value else None
    for kind in kinds:
        seconds = statistics.median(found[kind]["seconds"] for found in rounds)
        print(f"{kind}: {seconds:.2f} s (median of {len(rounds)})")
    for kind in peers:
        ratios = sorted(found["jaxsft"]["seconds"] / found[kind]["seconds"] for found in rounds)
        middle = statistics.median(ratios)
        print(f"jaxsft / {kind}: {middle:.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")
    _print_memory("load", max(found["jaxsft"]["beside_bytes"] for found in rounds), largest)
    if exported:
        _print_memory("export", exported["beside_bytes"], largest)


def _print_memory(what: str, beside: float, largest: int) -> None:
    print(
        f"{what}: at most {beside / 2**20:.0f} MiB beside the arrays, {beside / largest:.2f} of the"
        f" largest tensor ({largest / 2**20:.0f} in float32)"
    )


def _run_child(kind: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, f"--child={kind}", f"--directory={folder}"]
    command += [f"--parameter_dtype={_KEPT.value}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(kind: str, directory: Path) -> dict[str, float]:
    if kind == "export":
        return load.measure_export(directory, _KEPT.value)
    if kind == "torch":
        import torch  # before the clock starts

        kept = getattr(torch, _KEPT.value)
        read = functools.partial(_read, "pt", lambda tensor: tensor.to(kept, copy=True))
    elif kind == "safetensors":
        read = functools.partial(_read, "np", lambda tensor: tensor)
    else:
        read = functools.partial(load.load, parameter_dtype=_KEPT.value)
    return load.measure_load(directory, read)


def _read(framework: str, cast: Callable[[Any], Any], directory: Path) -> dict[str, Any]:
    """Every tensor as safetensors gives it, in memory."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safetensors.safe_open(path, framework) as file:
            found |= {name: cast(file.get_tensor(name)) for name in file.keys()}
    assert found.keys() == set(safetensors_read.Directory(directory).names())
    return found


if __name__ == "__main__":
    app.run(main)
