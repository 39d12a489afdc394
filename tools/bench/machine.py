"""What a measurement was made on and with."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import jax

import jaxsft
from bench.measurement import Machine

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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor()
