"""One of two processes that load a model over a shared mesh and export it; run by a test.

Arguments: coordinator address, process index, model directory, export directory.
"""

import json
import sys

import jax

from jaxsft import config, mesh
from jaxsft.convert import export, families, pretrained
from jaxsft.model import state


def main(address: str, index: str, source: str, target: str) -> None:
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, 2, int(index))
    base = pretrained.open_pretrained(source)
    _, shapes, axes = state.abstract(base.settings, "float32", "none")
    placement = state.shardings(shapes, axes, mesh.make_mesh(config.Mesh(fsdp=2, tensor=2)))
    params = pretrained.read_params(base, placement)
    q_LDNH = families.leaf(params, ("layers", "attention", "q_DNH"))
    print(json.dumps([shard.data.shape for shard in q_LDNH.addressable_shards]), flush=True)
    export.export(params, base, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
