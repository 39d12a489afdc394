"""What the machine is, and its peaks: a matrix product's FLOP/s, a copy's bytes/s."""

import importlib.metadata
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from bench.gpu import results, timing
from jaxsft.devices import chips

_PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint"),
    *("grain", "transformers", "torch", "numpy"),
)


def measure() -> None:
    started = time.time()
    devices = jax.devices()
    device = devices[0]
    chip = chips.chip_of(device.device_kind)
    results.put(
        "facts",
        devices=[one.device_kind for one in devices],
        platform=device.platform,
        capability=getattr(device, "compute_capability", None),
        bytes_limit_GiB=(device.memory_stats() or {}).get("bytes_limit", 0) / 2**30,
        fraction=os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION"),
        nvidiactl=Path("/dev/nvidiactl").exists(),
        chip_peak=chip and chip.bf16_flops,
        cudnn=_cudnn_version(),
        versions={name: _version(name) for name in _PACKAGES},
        seconds=time.time() - started,
    )
    _peaks()


def _peaks() -> None:
    size, num_copied = (512, 2**20) if results.is_tiny() else (8192, 2**30)
    key = jax.random.key(0)
    square = jax.random.normal(key, (size, size), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    ms = timing.milliseconds(lambda: product(square, square), 20)
    results.put("matmul", n=size, tflops=2 * size**3 / ms / 1e9)
    row = jax.random.normal(key, (num_copied,), jnp.bfloat16)
    copy = jax.jit(lambda x: x + 1)
    ms = timing.milliseconds(lambda: copy(row), 10)
    results.put("copy", GBs=2 * row.nbytes / ms / 1e6)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cudnn_version() -> object:
    try:
        from jax._src.lib import cuda_versions

        return cuda_versions.cudnn_get_version()
    except Exception as error:  # private to jax, and absent without a GPU
        return results.said(error)
