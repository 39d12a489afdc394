"""What the compilers and the devices say of memory is told as what a user can mend."""

import jax
import pytest

from jaxsft.training import too_large
from jaxsft.training.parameters import Way
from tests.training.test_mesh_fit import config

Said = jax.errors.JaxRuntimeError
POOL = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9.50GiB.\nmore"
KERNEL = "RESOURCE_EXHAUSTED: Shared memory size limit exceeded: requested 245760, available 232448"
HBM = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm."
CUDA = "INTERNAL: cuGraphInstantiate failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory"
NCCL = "INTERNAL: NCCL operation failed: unhandled cuda error. Cuda failure 2 'out of memory'"


@pytest.mark.parametrize(
    ("text", "is_step"), [(POOL, True), (HBM, True), (KERNEL, False), (CUDA, False), ("", False)]
)
def test_a_compiler_refuses_a_step_and_not_a_kernel(text, is_step):
    found = too_large.said_by_compiler(Said(text))
    first = text.partition("\n")[0]
    assert str(found) == (f"the training step is too large. {first}" if is_step else "None")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POOL, "a device has no memory left: .* 9.50GiB.; less is needed with config.model.remat"),
        (CUDA, "beside the share .* with a smaller XLA_PYTHON_CLIENT_MEM_FRACTION, or"),
        (NCCL, "beside the share .* with a smaller XLA_PYTHON_CLIENT_MEM_FRACTION, or"),
    ],
)
def test_memory_that_runs_out_is_explained(text, said):
    with pytest.raises(too_large.TooLarge, match=said), too_large.explained(config()):
        raise Said(text)


@pytest.mark.parametrize("error", [Said(KERNEL), Said("INTERNAL: x"), ValueError(POOL)])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as found, too_large.explained(config()):
        raise error
    assert found.value is error


@pytest.mark.parametrize(
    ("way", "proposed"),
    [
        (Way("save_projections", 8), ["config.model.remat=full", "config.model.unroll_layers=1"]),
        (Way("save_projections", 1), ["config.model.remat=full"]),
        (Way("full", 8), ["config.model.unroll_layers=1"]),
        (Way("full", 1), []),
    ],
)
def test_what_auto_has_taken_is_not_proposed(way, proposed):
    """Rows are one a device, so micro-batches can't be more."""
    with pytest.raises(too_large.TooLarge) as found, too_large.explained(way.set_in(config())):
        raise Said(POOL)
    listed = str(found.value).partition("needed with ")[2].split(", ")
    assert [one for one in listed if "remat" in one or "layers" in one] == proposed
    assert not any("microbatches" in one for one in listed)
