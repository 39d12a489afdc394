"""Devices that aren't there: a named slice or box, for which XLA compiles all the same."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from jaxsft.devices import gpu_memory
from jaxsft.devices.chips import CHIPS, Chip, chip_of
from jaxsft.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class _Tpu:
    chip: str  # name in CHIPS
    dimensions: int  # of the grid that its chips are laid in
    libtpu: str  # its name there
    megacore: bool = False  # its two cores are one device
    devices: int = 1  # of jax


# By name on the command line.
_TPUS = {
    "v4": _Tpu("TPU v4", 3, "v4", megacore=True),
    "v5e": _Tpu("TPU v5e", 2, "v5e"),
    "v5p": _Tpu("TPU v5p", 3, "v5p", megacore=True),
    "v6e": _Tpu("TPU v6e", 2, "v6e"),
    "v7x": _Tpu("TPU7x", 3, "tpu7x", devices=2),
}
_GPUS = {
    "a100": "NVIDIA A100",
    "h100": "NVIDIA H100",
    "h200": "NVIDIA H200",
    "l4": "NVIDIA L4",
    "rtx4090": "NVIDIA GeForce RTX 4090",
}
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")  # of jax, one for each CUDA
_EXAMPLES = "v5p:2x2x2, v6e:8x8, h200:8, h100:8x4 (4 boxes of 8) or cpu:8"


@dataclasses.dataclass(frozen=True)
class Topology:
    name: str
    devices: list[Any]  # of jax; they compile and do not run
    chip: Chip | None  # None: a CPU, of which nothing is known
    num_slices: int  # that talk over a network, not over links between chips
    links: float = 1.0  # share of a chip's links that lead to others of its slice

    devices_of_chip: int = 1

    @property
    def num_devices(self) -> int:
        return len(self.devices)

    @property
    def num_chips(self) -> int:
        return self.num_devices // self.devices_of_chip


def open_topology(name: str, num_slices: int = 1) -> Topology:
    """The devices of a topology.

    Raises:
        ConfigError: a name that is not known, or the package that compiles for it is missing.
    """
    kind, _, shape = name.partition(":")
    if not re.fullmatch(r"\d+(x\d+)*", shape):
        raise ConfigError(f"--topology={name}: expected a kind and a shape such as {_EXAMPLES}")
    sizes = [int(size) for size in shape.split("x")]
    if kind == "cpu":
        return _cpu(name, sizes)
    if kind in _TPUS:
        return _tpu(name, _TPUS[kind], sizes, num_slices)
    if kind in _GPUS:
        return _gpu(name, kind, sizes, num_slices)
    known = ", ".join([*_TPUS, *_GPUS, "cpu"])
    raise ConfigError(f"--topology={name}: {kind!r} is not known; {known} are, as in {_EXAMPLES}")


def here() -> Topology:
    """The devices that this run has; its name is what jax calls one of them."""
    devices = list(jax.devices())
    kind, platform = devices[0].device_kind, devices[0].platform
    chip = chip_of(kind)
    if platform != "tpu":
        boxes = len({one.process_index for one in devices})
        return Topology(kind, devices, chip, boxes if platform == "gpu" else 1)
    slices: dict[int, list[Any]] = {}
    for one in devices:
        slices.setdefault(getattr(one, "slice_index", 0), []).append(one.coords)
    sizes = [max(row) - min(row) + 1 for row in zip(*next(iter(slices.values())), strict=True)]
    known = [tpu.dimensions for tpu in _TPUS.values() if CHIPS[tpu.chip] == chip]
    dimensions = known[0] if known else 3
    links = SliceShape.of(sizes, dimensions).links(sizes, dimensions)
    return Topology(kind, devices, chip, len(slices), links)


def _cpu(name: str, sizes: list[int]) -> Topology:
    devices = jax.devices("cpu")
    if len(sizes) != 1 or sizes[0] > len(devices):
        raise ConfigError(
            f"--topology={name}: this process has {len(devices)} CPU devices;"
            " XLA_FLAGS=--xla_force_host_platform_device_count=N makes more"
        )
    return Topology(name, devices[: sizes[0]], None, 1)


@dataclasses.dataclass(frozen=True)
class SliceShape:
    """What a slice of these sizes is like beyond its number of chips.

    Source: cloud.google.com/tpu/docs on the shapes of each generation.
    """

    host: tuple[int, int, int]  # chips of a host, along each dimension
    wrap: tuple[bool, bool, bool]  # whether the last chip of a dimension is linked to its first

    @classmethod
    def of(cls, sizes: Sequence[int], dimensions: int) -> "SliceShape":
        padded = (*sizes, *[1] * (3 - len(sizes)))
        x, y, z = padded
        if dimensions == 3:  # a torus from whole cubes of 4 x 4 x 4 on
            closed = all(size % 4 == 0 for size in padded)
            wrap = (closed, closed, closed)
        else:  # along the 16 chips that a pod is wide
            wrap = (x == 16, y == 16, z == 16)
        return cls((min(x, 2), min(y, 2), 1), wrap)

    def links(self, sizes: Sequence[int], dimensions: int) -> float:
        """The share of the slowest chip's links that lead to others of its slice."""
        used = [0 if n == 1 else 1 + w for n, w in zip(sizes, self.wrap, strict=False)]
        return max(sum(used), 1) / (2 * dimensions)  # the devices of one chip are joined as well


def _tpu(name: str, tpu: _Tpu, sizes: list[int], num_slices: int) -> Topology:
    if len(sizes) > 3:
        raise ConfigError(f"--topology={name}: expected at most three sizes, as in {_EXAMPLES}")
    shape = SliceShape.of(sizes, tpu.dimensions)
    devices = _tpu_devices(name, tpu, shape, num_slices)
    links = shape.links(sizes, tpu.dimensions)
    return Topology(name, devices, CHIPS[tpu.chip], num_slices, links, tpu.devices)


def _tpu_devices(name: str, tpu: _Tpu, shape: SliceShape, num_slices: int) -> list[Any]:
    _need(["libtpu"], name, "pip install 'jaxsft[plan]'")
    # Else libtpu asks the metadata server of a cloud that is not there.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5p-8")  # any will do
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip to be held by one process
    slices = {} if num_slices == 1 else {"num_slices": num_slices}
    try:
        described = topologies.get_topology_desc(
            platform="tpu",
            topology_name=f"{tpu.libtpu}:{name.partition(':')[2]}",
            chip_config_name="megacore" if tpu.megacore else "default",
            chips_per_host_bounds=shape.host,
            wrap=shape.wrap,
            **slices,
        )
    except Exception as error:  # libtpu's own kinds differ from version to version
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"--topology={name}: libtpu can't compile for it: {first}") from None
    return list(described.devices)


def _need(modules: Sequence[str], topology: str, how: str) -> None:
    """Refuses a topology where none of the modules is there that compile for it."""
    if all(importlib.util.find_spec(module) is None for module in modules):
        raise ConfigError(f"--topology={topology}: needs the package {' or '.join(modules)}; {how}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Gpu:
    """What XLA wants to know of a GPU beyond the rates. Source: NVIDIA's tuning guides."""

    description: str
    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    shared_memory_per_core: int
    shared_memory_of_block: int
    l2_bytes: int
    clock_ghz: float
    # That CUDA has for programs, the least that drivers leave: 139.8 were measured on an H200.
    memory_gib: float
    threads_per_core: int = 2048


_HOPPER = _Gpu(
    description="NVIDIA H100",
    capability=(9, 0),
    cores=132,
    fpus_per_core=128,
    shared_memory_per_core=233472,
    shared_memory_of_block=232448,
    l2_bytes=52428800,
    clock_ghz=1.98,
    memory_gib=79.1,
)
# The share of a GPU's memory that XLA keeps a program within where it has no allocator to ask, as a
# run has; what takes more it computes again. By that, Llama-3.1-8B (2 x 4096, save_context) would
# need 118.0 GiB of an H200; it needs 125.8, and 126.8 by a plan with the run's limit.
# Source: XLA's GetSchedulerMemoryLimit.
_SCHEDULED_SHARE = 0.8
_ADA = _Gpu(
    description="NVIDIA L4",
    capability=(8, 9),
    cores=58,
    fpus_per_core=128,
    shared_memory_per_core=102400,
    shared_memory_of_block=101376,
    l2_bytes=50331648,
    clock_ghz=2.04,
    memory_gib=22.0,
    threads_per_core=1536,
)
_GPU_FACTS = {
    "h100": _HOPPER,
    "h200": dataclasses.replace(_HOPPER, description="NVIDIA H200", memory_gib=139.7),
    "a100": _Gpu(
        description="NVIDIA A100",
        capability=(8, 0),
        cores=108,
        fpus_per_core=64,
        shared_memory_per_core=167936,
        shared_memory_of_block=166912,
        l2_bytes=41943040,
        clock_ghz=1.41,
        memory_gib=79.1,
    ),
    "l4": _ADA,
    "rtx4090": dataclasses.replace(
        _ADA,
        description="NVIDIA GeForce RTX 4090",
        cores=128,
        l2_bytes=75497472,
        clock_ghz=2.52,
        memory_gib=23.5,
    ),
}


def _gpu(name: str, kind: str, sizes: list[int], num_slices: int) -> Topology:
    _need(
        _CUDA_PLUGINS,
        name,
        "pip install 'jaxsft[plan-gpu]', or 'jaxsft[plan-gpu13]' beside CUDA 13",
    )
    # Else jax leaves the plugin out where no driver is.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    if len(sizes) > 2:
        raise ConfigError(f"--topology={name}: expected GPUs, or GPUs x boxes, as in h100:8x4")
    per_box, boxes = sizes[0], sizes[1] if len(sizes) == 2 else 1
    try:
        described = topologies.get_topology_desc(
            platform="cuda",
            topology_name=kind,
            target_config=_target(kind),
            topology=f"{num_slices}x{boxes}x{per_box}",
        )
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        if isinstance(error, NotImplementedError):
            first += (
                "; jax found no CUDA plugin when this process opened its devices: set"
                " JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 before it starts"
            )
        raise ConfigError(f"--topology={name}: XLA can't compile for it here: {first}") from None
    return Topology(name, list(described.devices), gpu_chip(kind), num_slices * boxes)


def gpu_chip(kind: str) -> Chip:
    """A GPU with the memory that a program may use of it, in this environment."""
    usable = gpu_memory.share() * _GPU_FACTS[kind].memory_gib * 2**30
    return dataclasses.replace(CHIPS[_GPUS[kind]], memory_bytes=usable)


def _target(kind: str) -> str:
    """A GpuTargetConfigProto in text form."""
    gpu, chip = _GPU_FACTS[kind], CHIPS[_GPUS[kind]]
    device = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": gpu.shared_memory_per_core,
        "threads_per_core_limit": gpu.threads_per_core,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.fpus_per_core,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(chip.memory_bandwidth),
        "l2_cache_size": gpu.l2_bytes,
        "clock_rate_ghz": gpu.clock_ghz,
        "device_memory_size": int(gpu_chip(kind).memory_bytes / _SCHEDULED_SHARE),
        "shared_memory_per_block_optin": gpu.shared_memory_of_block,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    lines = " ".join(f"{field}: {value}" for field, value in device.items())
    major, minor = gpu.capability
    return (
        f"gpu_device_info {{ {lines} cuda_compute_capability {{ major: {major} minor: {minor} }} }}"
        ' platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 }'
        f' device_description_str: "{gpu.description}"'
    )
