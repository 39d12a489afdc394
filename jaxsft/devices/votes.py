"""What any process of a run asks for, known to all of them a step later, with no one waiting."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsft.devices import progress


class Vote:
    """What each process says of a few things, counted on the devices while the program goes on."""

    @progress.waiting()
    def __init__(self, *yes: bool):
        mesh = Mesh(np.asarray(jax.devices()), "device")
        local = np.tile(np.asarray(yes, np.int32), (len(jax.local_devices()), 1))
        split = NamedSharding(mesh, PartitionSpec("device"))
        self._result = _most(mesh)(jax.make_array_from_process_local_data(split, local))

    def each(self) -> list[bool]:
        """Whether a process said yes, by thing; the same answer on all of them."""
        return [bool(one) for one in jax.device_get(self._result)]


@functools.cache
def _most(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(
        lambda yes: jnp.max(yes, axis=0), out_shardings=NamedSharding(mesh, PartitionSpec())
    )
