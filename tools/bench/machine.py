"""What a measurement was made on and with."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import jax

import jaxsft
from bench.measurement import Machine
from jaxsft.devices.chips import chip_of

_LIBRARIES = ("jax", "jaxlib", "flax", "optax")


def describe() -> Machine:
    devices = jax.devices()
    return Machine(
        devices=f"{len(devices)} x {devices[0].device_kind}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        versions={"jaxsft": jaxsft.__version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _LIBRARIES},
    )


def peak_flops() -> float | None:
    """Of all devices together, by their data sheet; None: not known."""
    devices = jax.devices()
    chip = chip_of(devices[0].device_kind)
    return chip.bf16_flops * len(devices) if chip else None


def peak_device_bytes() -> int | None:
    """The most that a program held on the first device; None where jax doesn't say (CPU)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def peak_host_bytes() -> int | None:
    """The most memory of this program in RAM; None where there is no /proc.

    Not getrusage: what it says begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor()
