"""Steps that are made twice, to find hardware that computes or remembers wrongly without a word.

A wrong number is seldom NaN: training goes on with it, and what is saved is wrong too. Two makings
of one step from the same bits must give the same bits, and devices that hold the same must hold the
same bits.

P: device, in the mesh's order; L: leaf.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxsft.errors import HardwareError, known_to_all
from jaxsft.training.batch import Batch
from jaxsft.training.device_digests import digests_of, holders, odd_ones_out, part_of
from jaxsft.training.mesh_program import MeshProgram
from jaxsft.training.over_mesh import TrainStep
from jaxsft.training.step import StepMetrics, TrainState

_NAMED = 3  # arrays in a message


class CheckedStep:
    """A training step that checks the devices now and then; else it is the step.

    The state waits in the memory of the host meanwhile, so that devices need no more than before.

    Args:
        every_steps: between two checks.
        say: is told that all was right.

    Raises, when called:
        HardwareError: naming the devices, on every process.
    """

    def __init__(
        self,
        train_step: TrainStep,
        program: MeshProgram,
        every_steps: int,
        say: Callable[[str], None],
    ):
        self._train_step, self._every_steps, self._say = train_step, every_steps, say
        self._done = self._sure = 0  # `_sure`: up to which all was right
        at, shapes = program.placement, program.shapes
        self._changing = _Watched(program.mesh, at.changing, shapes.changing)
        frozen = (at.frozen, at.teacher), (shapes.frozen, shapes.teacher)
        self._frozen = _Watched(program.mesh, *frozen)
        self._frozen_at_first: np.ndarray | None = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        if self._frozen_at_first is None:
            self._done = self._sure = int(jax.device_get(state.step))
            self._frozen_at_first = self._frozen.digests((state.frozen, state.teacher))
        self._done += 1
        if self._done % self._every_steps:
            return self._train_step(state, batch)
        started = time.monotonic()
        before_PL = self._check_replicas(state)
        kept = jax.tree.map(_Kept, state.changing)
        once, _ = self._train_step(state, batch)  # takes the memory of the state over
        once_PL = self._changing.digests(once.changing)
        del once
        again = TrainState.of(jax.tree.map(_Kept.on_devices, kept), state.frozen, state.teacher)
        if found := self._changing.differ(before_PL, self._changing.digests(again.changing)):
            self._end(f"what was read from the devices came back changed: {found}")
        twice, metrics = self._train_step(again, batch)
        if found := self._changing.differ(once_PL, self._changing.digests(twice.changing)):
            self._end(f"step {self._done} was made twice from the same bits and differs: {found}")
        self._sure = self._done
        seconds = time.monotonic() - started
        self._say(f"step {self._done} was made twice with the same bits, in {seconds:.1f} s")
        return twice, metrics

    def _check_replicas(self, state: TrainState) -> np.ndarray:
        """uint32 [P, L] of what the step changes."""
        changing_PL = self._changing.digests(state.changing)
        frozen_PL = self._frozen.digests((state.frozen, state.teacher))
        assert self._frozen_at_first is not None
        if found := self._frozen.differ(self._frozen_at_first, frozen_PL):
            self._end(f"what no step changes has changed: {found}")
        if found := self._changing.replicas(changing_PL) or self._frozen.replicas(frozen_PL):
            self._end(f"devices that hold the same differ: {found}")
        return changing_PL

    def _end(self, what: str) -> None:
        raise known_to_all(
            HardwareError(
                f"a device computes or remembers wrongly, seen before step {self._done} was saved:"
                f" {what}. All was right up to step {self._sure}: checkpoints after it may be wrong"
                " too; move them away, take the device's host out, and start the same command again"
            )
        )


class _Watched:
    """What devices hold of a tree.

    Args:
        placement, shapes: for each leaf.
    """

    def __init__(self, mesh: Mesh, placement: Any, shapes: Any):
        self._devices = list(mesh.devices.flat)
        self._names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
        self._digests = digests_of(mesh, placement) if self._names else None
        pairs = zip(jax.tree.leaves(placement), jax.tree.leaves(shapes), strict=True)
        self._groups = [holders(sharding, shape.shape) for sharding, shape in pairs]

    def digests(self, tree: Any) -> np.ndarray:
        """uint32 [P, L]."""
        if self._digests is None:
            return np.zeros((len(self._devices), 0), np.uint32)
        return np.asarray(jax.device_get(self._digests(tree)))

    def differ(self, some_PL: np.ndarray, others_PL: np.ndarray) -> str:
        """Which devices' numbers differ, and of what; nothing where none do."""
        return self._said((some_PL != others_PL).T.tolist())

    def replicas(self, digests_PL: np.ndarray) -> str:
        """Which devices hold something else than those that should hold the same."""
        odd = []
        for digests_P, groups in zip(digests_PL.T, self._groups, strict=True):
            places = {place for one in odd_ones_out(digests_P, groups) for place in one}
            odd.append([place in places for place in range(len(self._devices))])
        return self._said(odd)

    def _said(self, odd_LP: list[list[bool]]) -> str:
        names = [name for name, odd_P in zip(self._names, odd_LP, strict=True) if any(odd_P)]
        if not names:
            return ""
        places = [place for place in range(len(self._devices)) if any(o[place] for o in odd_LP)]
        shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        return f"{_devices([self._devices[place] for place in places])} in {shown}"


def _devices(devices: list[Any]) -> str:
    if len(devices) == 1:
        return f"device {devices[0].id} of process {devices[0].process_index}"
    processes = sorted({device.process_index for device in devices})
    return f"devices {[device.id for device in devices]} of processes {processes}"


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


class _Kept:
    """An array's parts that this process's devices hold, in the host's memory."""

    def __init__(self, array: jax.Array):
        self._shape, self._sharding = array.shape, array.sharding
        self._parts = {
            part_of(shard.index, array.shape): np.array(shard.data, copy=True)
            for shard in array.addressable_shards
        }

    def on_devices(self) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            return self._parts[part_of(index, self._shape)]

        with jax.transfer_guard_host_to_device("allow"):
            return jax.make_array_from_callback(self._shape, self._sharding, part)
