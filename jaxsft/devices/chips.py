"""What one accelerator chip can do: the figures behind MFU and the plan's estimates."""

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Rates are peaks of the data sheet: dense, without sparsity."""

    bf16_flops: float  # FLOP/s
    memory_bytes: float  # that a program may use
    memory_bandwidth: float  # bytes/s
    link_bandwidth: float  # bytes/s that a chip sends to others of its slice or box, all links
    network_bandwidth: float  # bytes/s that a chip sends out of its slice or box


_GB, _GIB = 1e9, 2**30
# Sources: data sheets of NVIDIA; cloud.google.com/tpu/docs (a chip's bandwidth to others is half of
# what is called bidirectional there; memory is what XLA reports as usable). Networks are those of
# the usual machine types: 400 Gbit/s for each GPU, 200 Gbit/s for a TPU host.
CHIPS = {
    "TPU v4": Chip(
        bf16_flops=275e12,
        memory_bytes=30.75 * _GIB,
        memory_bandwidth=1228 * _GB,
        link_bandwidth=150 * _GB,
        network_bandwidth=6.25 * _GB,
    ),
    "TPU v5e": Chip(
        bf16_flops=197e12,
        memory_bytes=15.75 * _GIB,
        memory_bandwidth=819 * _GB,
        link_bandwidth=100 * _GB,
        network_bandwidth=6.25 * _GB,
    ),
    "TPU v5p": Chip(
        bf16_flops=459e12,
        memory_bytes=95.74 * _GIB,
        memory_bandwidth=2765 * _GB,
        link_bandwidth=300 * _GB,
        network_bandwidth=6.25 * _GB,
    ),
    "TPU v6e": Chip(
        bf16_flops=918e12,
        memory_bytes=31.25 * _GIB,
        memory_bandwidth=1640 * _GB,
        link_bandwidth=200 * _GB,
        network_bandwidth=6.25 * _GB,
    ),
    "NVIDIA A100": Chip(
        bf16_flops=312e12,
        memory_bytes=80 * _GB,
        memory_bandwidth=2039 * _GB,
        link_bandwidth=300 * _GB,
        network_bandwidth=25 * _GB,
    ),
    "NVIDIA H100": Chip(
        bf16_flops=989e12,
        memory_bytes=80 * _GB,
        memory_bandwidth=3350 * _GB,
        link_bandwidth=450 * _GB,
        network_bandwidth=50 * _GB,
    ),
    "NVIDIA H200": Chip(
        bf16_flops=989e12,
        memory_bytes=141 * _GB,
        memory_bandwidth=4800 * _GB,
        link_bandwidth=450 * _GB,
        network_bandwidth=50 * _GB,
    ),
    "NVIDIA B200": Chip(
        bf16_flops=2250e12,
        memory_bytes=180 * _GB,
        memory_bandwidth=8000 * _GB,
        link_bandwidth=900 * _GB,
        network_bandwidth=50 * _GB,
    ),
}
# Other names that jax has for them.
_ALIASES = {"TPU v5 lite": "TPU v5e", "TPU v5": "TPU v5p", "TPU v6 lite": "TPU v6e"}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls `device_kind`, or None for one that is not known."""
    names = {**{name: name for name in CHIPS}, **_ALIASES}
    fitting = [name for name in names if device_kind.startswith(name)]
    return CHIPS[names[max(fitting, key=len)]] if fitting else None


def peak_flops(devices: Sequence[Any]) -> float | None:
    """FLOP/s of all these devices of jax together, by their data sheet; None: not known."""
    chip = chip_of(devices[0].device_kind)
    return chip.bf16_flops * len(devices) if chip else None
