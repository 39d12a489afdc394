"""What loading and exporting hold beside the model's own arrays.

tracemalloc sees numpy's arrays; the parameters themselves lie in pages of their own.
"""

import tracemalloc
from collections.abc import Callable

import jax
import pytest

from jaxsft.convert import pretrained
from jaxsft.convert.export.directory import export
from jaxsft.devices import mesh
from jaxsft.model import state

# The largest tensor, the embedding, is far larger than a block of each thread.
WIDE = {"hidden_size": 256, "intermediate_size": 1024, "vocab_size": 8192}
LARGEST = 4 * WIDE["hidden_size"] * WIDE["vocab_size"]


def most_held(do: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        kept = do()
        peak = tracemalloc.get_traced_memory()[1]
        del kept
        return peak
    finally:
        tracemalloc.stop()


def loader(base, parameter_dtype) -> Callable[[], state.Params]:
    _, shapes, axes = state.abstract(base.settings, "float32", "none", parameter_dtype)
    placement = state.shardings(shapes, axes, mesh.single_device_mesh())
    return lambda: pretrained.read_params(base, placement, shapes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("parameter_dtype", ["bfloat16", "float32"])
def test_loading_holds_no_second_copy_of_a_tensor(dtype, parameter_dtype, save_llama):
    directory, _ = save_llama(dtype=dtype, **WIDE)
    load = loader(pretrained.open_pretrained(directory), parameter_dtype)
    load()  # what jax and the imports keep
    assert most_held(load) < LARGEST / 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_exporting_holds_one_tensor_at_a_time(dtype, save_llama, tmp_path):
    directory, _ = save_llama(**WIDE)
    base = pretrained.open_pretrained(directory)
    params = loader(base, "float32")()
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert total > 2.5 * LARGEST
    held = most_held(lambda: export(params, base, tmp_path / "export", dtype=dtype))
    assert held < 1.5 * LARGEST
