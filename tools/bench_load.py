"""Measures loading: time against safetensors reading the same bytes, and memory beside the arrays.

python tools/bench_load.py [--gigabytes=2] [--dtype=bfloat16] [--rounds=5]

Writes a random Llama of that size in several shards to a temporary folder. Each measurement is a
process of its own; the two kinds take turns, and medians are printed. Memory is anonymous memory
(mapped files are the page cache's), sampled every 2 ms.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import safetensors
from absl import app, flags

from jaxsft import mesh
from jaxsft.convert import huggingface, pretrained, safetensors_read, safetensors_write
from jaxsft.model import state

_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "size of the checkpoint")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ("bfloat16", "float32"), "of its tensors")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "measurements of each kind")
_CHILD = flags.DEFINE_enum("child", None, ("jaxsft", "safetensors"), "measure once, here")
_DIRECTORY = flags.DEFINE_string("directory", None, "the checkpoint to measure")
D, F, V = 2048, 5632, 32000


def main(_) -> None:
    if _CHILD.value:
        print(json.dumps(_measure(Path(_DIRECTORY.value))))
        return
    with tempfile.TemporaryDirectory() as folder:
        largest = _write_checkpoint(Path(folder))
        found: dict[str, list[dict]] = {"jaxsft": [], "safetensors": []}
        for _ in range(_ROUNDS.value):
            for kind, results in found.items():
                results.append(_run_child(kind, folder))
    seconds = {k: statistics.median(r["seconds"] for r in v) for k, v in found.items()}
    beside = statistics.median(r["beside_bytes"] for r in found["jaxsft"])
    print("seconds:", {kind: round(value, 2) for kind, value in seconds.items()})
    print(f"jaxsft takes {seconds['jaxsft'] / seconds['safetensors']:.2f} times as long")
    print(f"MiB beside the arrays: {beside / 2**20:.0f}, {beside / largest:.2f} of the largest")
    print(f"tensor, which has {largest / 2**20:.0f} in float32")


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


def _run_child(kind: str, folder: str) -> dict:
    command = [sys.executable, __file__, f"--child={kind}", f"--directory={folder}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(directory: Path) -> dict[str, float]:
    jax.devices()
    sampler = _Sampler()
    start, begin = time.perf_counter(), _anonymous_bytes()
    arrays = _load(directory) if _CHILD.value == "jaxsft" else _read(directory)
    seconds = time.perf_counter() - start
    own = sum(array.nbytes for array in jax.tree.leaves(arrays))
    return {"seconds": seconds, "beside_bytes": sampler.stop() - begin - own}


def _load(directory: Path) -> state.Params:
    base = pretrained.open_pretrained(directory)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    return jax.block_until_ready(pretrained.read_params(base, placement))


def _read(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor as safetensors gives it, copied into memory."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safetensors.safe_open(path, "np") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert found.keys() == set(safetensors_read.Directory(directory).names())
    return found


class _Sampler:
    """The most anonymous memory of this process while it runs."""

    def __init__(self):
        self._most, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._run)
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
