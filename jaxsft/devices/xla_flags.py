"""Compiler flags for each platform: one table with reasons, tried in another process before use.

XLA ends a process that gives it a flag it doesn't know, and which it knows changes from version to
version. None of these has been measured by this project yet: the sources recommend them.
"""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Flag:
    text: str  # --name=value
    reason: str

    @property
    def name(self) -> str:
        return self.text.partition("=")[0]


@dataclasses.dataclass(frozen=True)
class Platform:
    variable: str  # of the environment, where the flags go
    trial: str  # a program that reads them, and takes no device
    trial_environment: dict[str, str]
    flags: tuple[Flag, ...]


_OVERLAP = "weights of the next layer are gathered while this one computes"
# Sources: docs of JAX-Toolbox (GPU), the flag library of MaxText's benchmarks (TPU).
PLATFORMS = {
    "gpu": Platform(
        variable="XLA_FLAGS",
        trial="import jax; jax.devices('cpu')",
        trial_environment={"JAX_PLATFORMS": "cpu"},
        flags=(
            Flag("--xla_gpu_enable_latency_hiding_scheduler=true", _OVERLAP),
            Flag("--xla_gpu_enable_pipelined_all_gather=true", "the same across a loop's turns"),
            Flag("--xla_gpu_enable_pipelined_reduce_scatter=true", "the same for gradients"),
            Flag("--xla_gpu_enable_pipelined_all_reduce=true", "the same for replicas"),
            Flag("--xla_gpu_enable_while_loop_double_buffering=true", "no copy in a loop's turn"),
        ),
    ),
    "tpu": Platform(
        variable="LIBTPU_INIT_ARGS",
        trial=(
            "from jax.experimental import topologies\n"
            "topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')"
        ),
        trial_environment={
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        },
        flags=(
            Flag("--xla_tpu_enable_async_collective_fusion=true", _OVERLAP),
            Flag("--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true", _OVERLAP),
            Flag("--xla_tpu_enable_async_collective_fusion_multiple_steps=true", _OVERLAP),
            Flag("--xla_tpu_overlap_compute_collective_tc=true", _OVERLAP),
            Flag("--xla_enable_async_all_gather=true", _OVERLAP),
        ),
    ),
}


def apply(platform: str) -> list[str]:
    """Sets the platform's flags in the environment; what was set and what was not, to be logged.

    To be called before jax takes its devices. A flag that the environment already has stays.
    """
    if platform not in PLATFORMS:
        return []
    here = PLATFORMS[platform]
    given = os.environ.get(here.variable, "")
    names = {flag.partition("=")[0] for flag in given.split()}
    wanted = [flag for flag in here.flags if flag.name not in names]
    known = _known(here, wanted)
    os.environ[here.variable] = " ".join([given, *(flag.text for flag in known)]).strip()
    return [
        f"{flag.text} ({flag.reason})"
        if flag in known
        else f"{flag.text} left out: this version of XLA does not know it"
        for flag in wanted
    ]


def _known(here: Platform, flags: Sequence[Flag]) -> list[Flag]:
    if not flags or _passes(here, flags):
        return list(flags)
    return [flag for flag in flags if _passes(here, [flag])]


def _passes(here: Platform, flags: Sequence[Flag]) -> bool:
    given = {here.variable: " ".join(flag.text for flag in flags)}
    command = [sys.executable, "-c", here.trial]
    environment = os.environ | here.trial_environment | given
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def platform_here() -> str:
    """ "gpu", "tpu" or "cpu": what jax will find, told without starting it."""
    asked = os.environ.get("JAX_PLATFORMS", "").partition(",")[0]
    if asked:
        return "gpu" if asked == "cuda" else asked
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if Path("/dev/nvidiactl").exists() and any(map(importlib.util.find_spec, plugins)):
        return "gpu"
    chips = [*Path("/dev").glob("accel*"), *Path("/dev").glob("vfio/[0-9]*")]
    return "tpu" if chips and importlib.util.find_spec("libtpu") else "cpu"
