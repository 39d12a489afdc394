"""Which process holds all others up: the time that each needs by itself for its part of a step.

A step takes all of them equally long, since they wait for each other in it. What is a process's own
is its waiting for data, and what its main thread computes: while it waits for others it computes
nothing. A device that is slow by itself does not show.
"""

import functools
import socket
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsft.devices import distributed

_TIMES_MEDIAN = 1.2
_LEAST_SHARE = 0.05  # of a step, by which the slowest must be behind: less is noise
_WARMING_UP = 2  # first steps, which compile what is around the step


class Pace:
    """Compares the processes every so many steps, while the next step goes on.

    Args:
        say: is told of a process that holds the others up.
    """

    def __init__(self, every_steps: int, say: Callable[[str], None]):
        self._every_steps = every_steps
        self._say = say
        self._alone = jax.process_count() == 1
        self._steps = -_WARMING_UP
        self._own_seconds = self._step_seconds = 0.0
        self._before = time.monotonic(), time.thread_time()
        self._gathered: jax.Array | None = None  # of the steps before this one
        self._hosts: list[str] = []
        if not self._alone:
            everyone = distributed.gather({"host": socket.gethostname()})
            self._hosts = [one["host"] for one in everyone]

    def add(self, waited: float) -> dict[str, float]:
        """`process_seconds/<number>` of each process, where they are known after this step.

        Args:
            waited: seconds for the step's data.
        """
        if self._alone:
            return {}
        found, self._gathered = self._gathered, None
        (then, computed), self._before = self._before, (time.monotonic(), time.thread_time())
        if self._steps >= 0:
            self._own_seconds += waited + self._before[1] - computed
            self._step_seconds += self._before[0] - then
        self._steps += 1
        if self._steps == self._every_steps:
            means = np.asarray([self._own_seconds, self._step_seconds]) / self._steps
            self._gathered = _on_all(means)
            self._steps, self._own_seconds, self._step_seconds = 0, 0.0, 0.0
        return {} if found is None else self._told(np.asarray(found))

    def _told(self, means_P2: np.ndarray) -> dict[str, float]:
        owners = [device.process_index for device in jax.devices()]
        firsts = [owners.index(number) for number in range(len(self._hosts))]
        own_P, steps_P = np.asarray(means_P2, np.float64)[firsts].T
        if (line := slowest(own_P, float(np.median(steps_P)), self._hosts)) is not None:
            self._say(line)
        return {f"process_seconds/{number}": own for number, own in enumerate(own_P.tolist())}


def slowest(own_P: np.ndarray, step_seconds: float, hosts: list[str]) -> str | None:
    """What to say of the process that holds the others up; None: none does.

    Args:
        own_P: seconds of each process's own, in a step.
    """
    number, median = int(np.argmax(own_P)), float(np.median(own_P))
    most = float(own_P[number])
    if most < _TIMES_MEDIAN * median or most - median < _LEAST_SHARE * step_seconds:
        return None
    times = f"{most / median:.1f} times the median" if median else f"the median is {median:.3f} s"
    return (
        f"process {number} (host {hosts[number]}) is the slowest: {most:.3f} s of its own in a step"
        f" of {step_seconds:.3f} s, {times}; all others wait for it"
    )


def _on_all(values: np.ndarray) -> jax.Array:
    """The values of each device's process, on all processes, once the devices come to it."""
    mesh = Mesh(np.asarray(jax.devices()), "device")
    local = np.tile(np.float32(values), (len(jax.local_devices()), 1))
    split = NamedSharding(mesh, PartitionSpec("device"))
    return _replicated(mesh)(jax.make_array_from_process_local_data(split, local))


@functools.cache
def _replicated(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda array: array, out_shardings=NamedSharding(mesh, PartitionSpec()))
