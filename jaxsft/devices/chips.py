"""What one accelerator can do that jax calls a device: the figures behind MFU and the plan's."""

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
    runs_in_turn: bool = False  # a kernel after the other, and does not load one's data meanwhile


_GB, _GIB, _TERA, _GBIT = 1e9, 2**30, 1e12, 1e9 / 8


def _tpu(tflops: float, gib: float, memory: float, links: float, network: float = 50) -> Chip:
    """Of TFLOP/s, usable GiB, GB/s of memory and of links, Gbit/s of the network."""
    return Chip(
        bf16_flops=tflops * _TERA,
        memory_bytes=gib * _GIB,
        memory_bandwidth=memory * _GB,
        link_bandwidth=links * _GB,
        network_bandwidth=network * _GBIT,
    )


def _gpu(tflops: float, gb: float, memory: float, links: float, network: float = 400) -> Chip:
    """Of TFLOP/s, GB, GB/s of memory and of links, Gbit/s of the network."""
    chip = _tpu(tflops, gb * _GB / _GIB, memory, links, network)
    return dataclasses.replace(chip, runs_in_turn=True)


# TPUs: cloud.google.com/tpu/docs, its pages of each generation. The links' rate is half of what is
# called bidirectional there, the memory what XLA's compiler says that it has; the network's is that
# of "TPU7x" for it, v6e and v5p, and of "TPU v5e" for that: 6.4 Tbit/s of a pod's 256 chips.
#
# GPUs: products of bfloat16 summed in float32, without sparsity, where a data sheet prints twice as
# many. NVLink, or PCIe where a box has none, is half of the sheet's rate, which counts both ways.
# NVIDIA's data sheets "A100 Tensor Core GPU", "H100 Tensor Core GPU" (NVL and SXM), "H100 PCIe"
# (its product brief), "H200 Tensor Core GPU", "GH200 Grace Hopper Superchip", "HGX B200", "L4",
# "L40S".
# GeForce: its architectures' white papers, the tables of peak rates: "Ampere GA102" (RTX 3090),
# "Ada" (RTX 4090), "RTX Blackwell" (RTX 5090).
#
# Networks of GPUs are those of the usual machines: 200 Gbit/s for each A100, 400 for the later
# ones, 10 for a desktop.
CHIPS = {
    "TPU v4": _tpu(275, 30.75, 1228, 300),
    "TPU v5e": _tpu(197, 15.75, 819, 200, 25),
    "TPU v5p": _tpu(459, 95.74, 2765, 600),
    "TPU v6e": _tpu(918, 31.25, 1638, 400, 100),
    "TPU7x": _tpu(2307 / 2, 94.75, 7380 / 2, 600 / 2, 100 / 2),  # jax has two devices of a chip
    "NVIDIA A100": _gpu(312, 80, 2039, 300, 200),
    "NVIDIA A100-SXM4-40GB": _gpu(312, 40, 1555, 300, 200),
    "NVIDIA A100-PCIE-40GB": _gpu(312, 40, 1555, 32, 200),
    "NVIDIA A100 80GB PCIe": _gpu(312, 80, 1935, 32, 200),
    "NVIDIA H100": _gpu(989, 80, 3350, 450),
    "NVIDIA H100 PCIe": _gpu(756, 80, 2000, 64),
    "NVIDIA H100 NVL": _gpu(835, 94, 3900, 300),
    "NVIDIA H200": _gpu(989, 141, 4800, 450),  # one measured: products of 8192^3 at 800 TFLOP/s
    "NVIDIA H200 NVL": _gpu(835, 141, 4800, 450),
    "NVIDIA GH200": _gpu(989, 96, 4000, 450),
    "NVIDIA GH200 144G": _gpu(989, 144, 4900, 450),  # jax's name goes on: HBM3e
    "NVIDIA B200": _gpu(2250, 180, 7700, 900),
    "NVIDIA L4": _gpu(121, 24, 300, 32),
    "NVIDIA L40S": _gpu(362, 48, 864, 32),
    "NVIDIA GeForce RTX 3090": _gpu(71, 24, 936, 32, 10),
    "NVIDIA GeForce RTX 4090": _gpu(165.2, 24, 1008, 32, 10),
    "NVIDIA GeForce RTX 5090": _gpu(209.5, 32, 1792, 64, 10),
}
# Other names that jax has for them.
_ALIASES = {"TPU v5 lite": "TPU v5e", "TPU v5": "TPU v5p", "TPU v6 lite": "TPU v6e"}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls `device_kind`, or None for one that is not known.

    A name may go on behind one of the table's, not a GeForce's: Ti, D, Laptop GPU are other chips.
    """
    names = {**{name: name for name in CHIPS}, **_ALIASES}
    open_ended = [name for name in names if "GeForce" not in name or name == device_kind]
    fitting = [name for name in open_ended if device_kind.startswith(name)]
    return CHIPS[names[max(fitting, key=len)]] if fitting else None


def peak_flops(devices: Sequence[Any]) -> float | None:
    """FLOP/s of all these devices of jax together, by their data sheet; None: not known."""
    chip = chip_of(devices[0].device_kind)
    return chip.bf16_flops * len(devices) if chip else None
