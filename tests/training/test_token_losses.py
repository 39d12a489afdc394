"""The loss of each token of an example is that of its logits, on any mesh."""

import types
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from jaxsft.config import Mesh
from jaxsft.devices.mesh import make_mesh
from jaxsft.model import state
from jaxsft.training.token_losses import TokenLosses

LENGTH = 16
EXAMPLES = [ids for ids, _ in tiny.conversations([5, 16, 2, 1, 20])]  # the last one is too long


def losses(sizes):
    mesh = make_mesh(sizes, jax.devices()[:1] if sizes == tiny.ONE_DEVICE else None)
    graphdef, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
    placement = state.shardings(shapes, axes, mesh)
    program = types.SimpleNamespace(
        mesh=mesh,
        settings=tiny.SETTINGS,
        recipe=types.SimpleNamespace(graphdef=graphdef),
        placement=types.SimpleNamespace(params=placement),
    )
    config: Any = types.SimpleNamespace(data=types.SimpleNamespace(sequence_length=LENGTH))
    job: Any = types.SimpleNamespace(program=program)
    with jax.set_mesh(mesh):
        params = jax.device_put(tiny.host_params(), placement)
        return TokenLosses(config, job).of(params, EXAMPLES)


def by_definition(ids):
    """In float64, of what a row holds."""
    logits_TV = np.asarray(tiny.logits(tiny.host_params(), ids[None]), np.float64)[0]
    logs_TV = logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))
    return -logs_TV[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize(
    "sizes", [tiny.ONE_DEVICE, Mesh(data=2, fsdp=2, tensor=2), Mesh(data=1, fsdp=4, context=2)]
)
def test_each_token_has_the_loss_of_its_logits(sizes):
    found = losses(sizes)
    assert [len(one) for one in found] == [5, 16, 2, 1, 20]
    for ids, values in zip(EXAMPLES, found, strict=True):
        assert np.isnan(values[0]) and np.isnan(values[LENGTH + 1 :]).all()
        expected = by_definition(ids)[:LENGTH]
        np.testing.assert_allclose(values[1 : LENGTH + 1], expected, rtol=1e-5)
