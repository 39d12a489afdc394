"""One measurement of loading or exporting: seconds, and memory beside the arrays.

Before the clock starts, the memory that will be needed is touched and given back: on a virtual
machine the first touch of a page can be the host's work. Memory is anonymous memory (mapped files
are the page cache's), sampled every 2 ms.
"""

import json
import mmap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsft.convert import pretrained
from jaxsft.convert.export import directory as export
from jaxsft.convert.tensors import huggingface, safetensors_write
from jaxsft.devices import mesh
from jaxsft.model import state

Read = Callable[[Path], Any]  # of a checkpoint's directory: its arrays
D, F, V = 2048, 5632, 32000


def write_checkpoint(directory: Path, gigabytes: float, dtype_name: str) -> int:
    """Writes a random Llama in several shards; returns its largest tensor's bytes in float32."""
    dtype = huggingface.DTYPES[dtype_name]
    layer = {f"self_attn.{name}_proj": (D, D) for name in "qkvo"}
    layer |= {"mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F)}
    layer |= {"input_layernorm": (D,), "post_attention_layernorm": (D,)}
    in_layer = sum(int(np.prod(shape)) for shape in layer.values()) * dtype.itemsize
    layers = round((gigabytes * 1e9 - V * D * dtype.itemsize) / in_layer)
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


def measure_load(directory: Path, read: Read) -> dict[str, float]:
    jax.devices()
    _touch(2 * sum(path.stat().st_size for path in directory.glob("*.safetensors")))
    sampler = _Sampler()
    start, begin = time.perf_counter(), _anonymous_bytes()
    arrays = read(directory)
    seconds = time.perf_counter() - start
    own = sum(array.nbytes for array in jax.tree.leaves(arrays))
    return {"seconds": seconds, "beside_bytes": sampler.stop() - begin - own}


def measure_export(directory: Path, parameter_dtype: str) -> dict[str, float]:
    params = load(directory, parameter_dtype)
    base = pretrained.open_pretrained(directory)
    sampler, begin = _Sampler(), _anonymous_bytes()
    export.export(params, base, directory / "exported")
    return {"beside_bytes": sampler.stop() - begin}


def load(directory: Path, parameter_dtype: str) -> state.Params:
    base = pretrained.open_pretrained(directory)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    return jax.block_until_ready(pretrained.read_params(base, placement, parameter_dtype))


def _touch(num_bytes: int) -> None:
    with mmap.mmap(-1, num_bytes) as memory:
        for start in range(0, num_bytes, mmap.PAGESIZE):
            memory[start] = 1


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
