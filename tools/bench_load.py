"""Measures loading: time against safetensors reading the same bytes, and memory beside the arrays.

python tools/bench_load.py [--gigabytes=2] [--dtype=bfloat16] [--parameter_dtype=float32]
    [--rounds=7] [--export]

Writes a random Llama of that size in several shards to a temporary folder. Each measurement is a
process of its own; the kinds take turns, and the medians of the rounds' ratios are printed:
`safetensors` reads every tensor into memory as it is, `torch` (where installed) gives it the dtype
of the parameters too. Before its clock starts, a process touches and gives back the memory that
it needs: on a virtual machine the first touch of a page can be the host's work. Memory is anonymous
memory (mapped files are the page cache's), sampled every 2 ms.
"""

import importlib
import importlib.util
import json
import mmap
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from absl import app, flags

from jaxsft import mesh
from jaxsft.convert import export, huggingface, pretrained, safetensors_read, safetensors_write
from jaxsft.model import state

_DTYPES = ("bfloat16", "float32")
_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "size of the checkpoint")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", _DTYPES, "of its tensors")
_KEPT = flags.DEFINE_enum("parameter_dtype", "float32", _DTYPES, "of the loaded parameters")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "measurements of each kind")
_EXPORT = flags.DEFINE_bool("export", False, "measure the export's memory too")
_CHILD = flags.DEFINE_string("child", None, "the kind to measure once, here")
_DIRECTORY = flags.DEFINE_string("directory", None, "the checkpoint to measure")
D, F, V = 2048, 5632, 32000


def main(_) -> None:
    if _CHILD.value:
        print(json.dumps(_measure(Path(_DIRECTORY.value))))
        return
    peers = ["safetensors"] + (["torch"] if importlib.util.find_spec("torch") else [])
    with tempfile.TemporaryDirectory() as folder:
        largest = _write_checkpoint(Path(folder))
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


def _write_checkpoint(directory: Path) -> int:
    """Writes the model; returns the bytes of its largest tensor in float32."""
    dtype = huggingface.DTYPES[_DTYPE.value]
    layer = {f"self_attn.{name}_proj": (D, D) for name in "qkvo"}
    layer |= {"mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F)}
    layer |= {"input_layernorm": (D,), "post_attention_layernorm": (D,)}
    in_layer = sum(int(np.prod(shape)) for shape in layer.values()) * dtype.itemsize
    layers = round((_GIGABYTES.value * 1e9 - V * D * dtype.itemsize) / in_layer)
    shapes = {"model.embed_tokens": (V, D), "model.norm": (D,)}
    shapes |= {f"model.layers.{n}.{name}": s for n in range(layers) for name, s in layer.items()}
    planned = [safetensors_write.Planned(f"{n}.weight", dtype, s) for n, s in shapes.items()]
    noise = np.random.default_rng(0).standard_normal(V * D, np.float32).astype(dtype)

    def produce(name: str) -> np.ndarray:
        shape = shapes[name.removesuffix(".weight")]
        return noise[: int(np.prod(shape))].reshape(shape)

    safetensors_write.write(directory, planned, produce, max_shard_bytes=5 * 10**8)
    config = {"model_type": "llama", "vocab_size": V, "hidden_size": D, "intermediate_size": F}
    config |= {"num_hidden_layers": layers, "num_attention_heads": 16, "tie_word_embeddings": True}
    (directory / "config.json").write_text(json.dumps(config))
    return V * D * 4


def _run_child(kind: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, f"--child={kind}", f"--directory={folder}"]
    command += [f"--parameter_dtype={_KEPT.value}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(directory: Path) -> dict[str, float]:
    if _CHILD.value == "export":
        return _measure_export(directory)
    kinds: dict[str, Callable[[Path], Any]] = {
        "jaxsft": _load,
        "safetensors": _read,
        "torch": _read_with_torch,
    }
    if _CHILD.value == "torch":
        importlib.import_module("torch")  # before the clock starts
    jax.devices()
    _touch(2 * sum(path.stat().st_size for path in directory.glob("*.safetensors")))
    sampler = _Sampler()
    start, begin = time.perf_counter(), _anonymous_bytes()
    arrays = kinds[_CHILD.value](directory)
    seconds = time.perf_counter() - start
    own = sum(array.nbytes for array in jax.tree.leaves(arrays))
    return {"seconds": seconds, "beside_bytes": sampler.stop() - begin - own}


def _measure_export(directory: Path) -> dict[str, float]:
    params = _load(directory)
    base = pretrained.open_pretrained(directory)
    sampler, begin = _Sampler(), _anonymous_bytes()
    export.export(params, base, directory / "export")
    return {"beside_bytes": sampler.stop() - begin}


def _touch(num_bytes: int) -> None:
    with mmap.mmap(-1, num_bytes) as memory:
        for start in range(0, num_bytes, mmap.PAGESIZE):
            memory[start] = 1


def _load(directory: Path) -> state.Params:
    base = pretrained.open_pretrained(directory)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    return jax.block_until_ready(pretrained.read_params(base, placement, _KEPT.value))


def _read(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor as safetensors gives it, copied into memory."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safetensors.safe_open(path, "np") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert found.keys() == set(safetensors_read.Directory(directory).names())
    return found


def _read_with_torch(directory: Path) -> dict[str, Any]:
    """Every tensor in the dtype of the parameters, in memory of its own."""
    import torch

    found, dtype = {}, getattr(torch, _KEPT.value)
    for path in sorted(directory.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                found[name] = file.get_tensor(name).to(dtype, copy=True)
    return found


class _Sampler:
    """The most anonymous memory of this process while it runs."""

    def __init__(self):
        self._most, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(0.002):
            self._most = max(self._most, _anonymous_bytes())

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._most


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    app.run(main)
