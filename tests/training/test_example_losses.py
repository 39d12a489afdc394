"""The loss of an example in a batch is what it is alone. A: micro-batch."""

import types
from typing import Any

import jax
import numpy as np
import pytest

from jaxsft.config import Mesh
from jaxsft.devices.mesh import make_mesh
from jaxsft.model import state
from jaxsft.training import over_mesh
from jaxsft.training.example_losses import ExampleLosses
from tests.tiny import ONE_DEVICE, SETTINGS, host_params, uneven_batch


def losses(batch, sizes, microbatches) -> Any:
    mesh = make_mesh(sizes, jax.devices()[:1] if sizes == ONE_DEVICE else None)
    graphdef, shapes, axes = state.abstract(SETTINGS, "float32", "none")
    placement = state.shardings(shapes, axes, mesh)
    job: Any = types.SimpleNamespace(
        program=types.SimpleNamespace(
            mesh=mesh,
            settings=SETTINGS,
            recipe=types.SimpleNamespace(graphdef=graphdef),
            placement=types.SimpleNamespace(params=placement),
        ),
        batches=types.SimpleNamespace(epochs=types.SimpleNamespace(max_segments=4)),
    )
    config: Any = types.SimpleNamespace(train=types.SimpleNamespace(microbatches=microbatches))
    with jax.set_mesh(mesh):
        params = jax.device_put(host_params(), placement)
        rows = jax.device_put(batch, over_mesh.batch_sharding(mesh))
        return ExampleLosses(config, job).of(params, rows)


@pytest.mark.parametrize(
    ("sizes", "microbatches"), [(ONE_DEVICE, 4), (Mesh(data=2, fsdp=2, tensor=2), 2)]
)
def test_each_example_has_the_loss_that_it_has_alone(sizes, microbatches):
    batch = uneven_batch()
    found_BM = losses(batch, sizes, microbatches)
    assert found_BM.shape == (16, 4)
    for row, segment in [(0, 1), (5, 1), (5, 2), (11, 3), (15, 2)]:
        alone = np.where(batch.segments_BT == segment, batch.weights_BT, 0)
        alone[np.arange(16) != row] = 0
        one = type(batch)(
            batch.tokens_BT, batch.targets_BT, batch.segments_BT, batch.positions_BT, alone
        )
        values = losses(one, ONE_DEVICE, 1).compressed()
        if not alone.any():
            assert found_BM.mask[row, segment - 1] and not len(values)
        else:
            np.testing.assert_allclose(found_BM[row, segment - 1], values, rtol=1e-5)
    assert found_BM.mask[:, 3].all()
