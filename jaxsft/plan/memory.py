"""What a compiled step needs of each device's memory, as the compiler gives it."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.devices.chips import Chip
from jaxsft.kernels.attention import cudnn_calls
from jaxsft.training.mesh_program import MeshProgram

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on each device."""

    arguments_bytes: int  # parameters, optimizer state, batch
    output_bytes: int  # new state and metrics
    donated_bytes: int  # of the output that takes the place of arguments
    temporaries_bytes: int  # gradients, activations, gathered weights
    limit_bytes: int | None  # that a program may use; None: not known
    # Held at one time at most; None: the sum of the others. TPU's compiler refuses a program by it,
    # and its temporaries_bytes are more: they count some buffers of loops twice.
    peak_bytes: int | None = None

    @property
    def sum_bytes(self) -> int:
        kept = self.output_bytes - self.donated_bytes
        return self.arguments_bytes + self.temporaries_bytes + kept

    @property
    def needed_bytes(self) -> int:
        return self.sum_bytes if self.peak_bytes is None else self.peak_bytes

    @property
    def fits(self) -> bool:
        return self.limit_bytes is None or self.needed_bytes <= self.limit_bytes


def of(compiled: Any, limit_bytes: int | None) -> Memory:
    """From `jitted.lower(...).compile()`."""
    found = compiled.memory_analysis()
    platform = _platform(compiled)
    workspace = cudnn_calls.workspace_bytes(compiled.as_text()) if platform == "gpu" else 0
    return Memory(
        arguments_bytes=found.argument_size_in_bytes,
        output_bytes=found.output_size_in_bytes,
        donated_bytes=found.alias_size_in_bytes,
        temporaries_bytes=found.temp_size_in_bytes + workspace,
        limit_bytes=limit_bytes,
        # Elsewhere the compiler gives a peak that leaves arguments or temporaries out.
        peak_bytes=found.peak_memory_in_bytes if platform == "tpu" else None,
    )


def _platform(compiled: Any) -> str:
    placed = jax.tree.leaves(compiled.input_shardings)[0]
    return next(iter(placed.device_set)).platform


def limit_here() -> int | None:
    """What a program may use of a device of this machine; the CPU's devices share its memory."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return physical // len(jax.local_devices())
    return (device.memory_stats() or {}).get("bytes_limit")


def limit_of(chip: Chip | None) -> int | None:
    """What a program may use of a chip; None: of a device of this machine."""
    return limit_here() if chip is None else int(chip.memory_bytes)


def state_bytes(built: MeshProgram) -> dict[str, float]:
    """Of parameters, optimizer, gradients and a teacher on each device; gradients lie where
    parameters lie."""

    def total(tree: Any, placement: Any, itemsize: int | None = None) -> float:
        sizes = jax.tree.map(
            lambda leaf, sharding: float(
                np.prod(sharding.shard_shape(leaf.shape)) * (itemsize or leaf.dtype.itemsize)
            ),
            tree,
            placement,
        )
        return sum(jax.tree.leaves(sizes))

    shapes, placement = built.shapes, built.placement
    gradients = built.recipe.gradient_dtype
    taught = {} if built.teacher is None else {"teacher": total(shapes.teacher, placement.teacher)}
    return {
        "parameters": total(shapes.params, placement.params),
        "optimizer": total(shapes.opt_state, placement.opt_state),
        "gradients": total(shapes.trained, placement.trained, jnp.dtype(gradients).itemsize),
        **taught,
    }


def too_large(memory: Memory) -> str:
    """What a step needs that does not fit, in words."""
    assert memory.limit_bytes is not None
    return (
        f"the training step needs {memory.needed_bytes / GIB:.1f} GiB on each device, of which"
        f" {memory.arguments_bytes / GIB:.1f} are parameters, optimizer state and batch; it may use"
        f" {memory.limit_bytes / GIB:.1f}."
    )
