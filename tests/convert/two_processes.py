"""One of two processes that load a model over shared meshes and export it; run by a test.

Arguments: coordinator address, process index, model directory, folder of the exports, and numbers
of devices along fsdp, a mesh each. Prints for each the shapes of its parts of one leaf, the bytes
that it read of all matrices, and all there are.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from unittest import mock

import jax

from jaxsft import config
from jaxsft.convert import pretrained
from jaxsft.convert.export import directory
from jaxsft.convert.families import tensor_table
from jaxsft.convert.tensors import host_copy
from jaxsft.devices import mesh
from jaxsft.model import state


def over(fsdp: int) -> jax.sharding.Mesh:
    return mesh.make_mesh(config.Mesh(fsdp=fsdp, tensor=4 // fsdp))


def is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape != (2, 32)  # the norms of two layers lie on every device


@contextlib.contextmanager
def counted_reads() -> Iterator[list[int]]:
    """The bytes of each part of a matrix that is copied out of the file inside."""
    read: list[int] = []
    real = host_copy.copy

    def copy(target, source, threads):
        if source.ndim > 1:
            read.append(source.nbytes)
        return real(target, source, threads)

    with mock.patch.object(host_copy, "copy", copy):
        yield read


def main(address: str, index: str, source: str, target: str, *meshes: str) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, 2, int(index))
    base = pretrained.open_pretrained(source)
    for fsdp in meshes:
        load_and_export(base, over(int(fsdp)), f"{target}/{fsdp}")


def load_and_export(base: pretrained.Pretrained, devices: jax.sharding.Mesh, target: str) -> None:
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    with counted_reads() as read:
        params = pretrained.read_params(base, state.shardings(shapes, axes, devices))
    q_LDNH = tensor_table.leaf(params, ("layers", "attention", "q_DNH"))
    there = sum(leaf.nbytes for leaf in jax.tree.leaves(params) if is_matrix(leaf.shape))
    parts = [shard.data.shape for shard in q_LDNH.addressable_shards]
    print(json.dumps([parts, sum(read), there]), flush=True)
    directory.export(params, base, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
