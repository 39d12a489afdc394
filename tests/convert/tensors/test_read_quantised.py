"""Files of a model, read into weights that are kept in few bits."""

import adapted
import jax
import numpy as np
import pytest

from jaxsft import config
from jaxsft.convert import pretrained
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConversionError
from jaxsft.model import quantised, state
from jaxsft.model.adapter_plan import without_adapters
from jaxsft.training import parameters


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = adapted.debug_base(tmp_path_factory.mktemp("base") / "base")
    return pretrained.open_pretrained(directory)


def declared(base, kind):
    made = parameters.declare(adapted.config_of(kind), base.settings)
    return without_adapters(made.shapes), without_adapters(made.axes)


@pytest.mark.parametrize("kind", quantised.KINDS)
def test_files_are_read_into_the_codes_of_their_tensors(base, kind):
    """On a mesh that splits blocks by their numbers, and outputs."""
    shapes, axes = declared(base, kind)
    mesh = mesh_lib.make_mesh(config.Mesh(fsdp=4, tensor=2), jax.devices()[:8])
    found = pretrained.read_params(base, state.shardings(shapes, axes, mesh), shapes)
    _, plain_shapes, plain_axes = state.abstract(base.settings, "float32", "none")
    one = state.shardings(plain_shapes, plain_axes, mesh_lib.single_device_mesh())
    plain = jax.tree.map(np.asarray, pretrained.read_params(base, one))
    made = state.as_kept(plain, shapes)
    for (path, leaf), (_, expected) in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves_with_path(made), strict=True
    ):
        np.testing.assert_array_equal(leaf, expected, err_msg=str(path))


def test_a_bad_number_is_refused_by_name(base, monkeypatch):
    shapes, axes = declared(base, "nf4")
    place = state.shardings(shapes, axes, mesh_lib.single_device_mesh())
    read = base.tensors.read

    def spoilt(name):
        array = np.array(read(name), np.float32)
        if name.endswith("layers.1.mlp.up_proj.weight"):
            array[3, 5] = np.nan
        return array

    monkeypatch.setattr(base.tensors, "read", spoilt)
    with pytest.raises(ConversionError, match=r"layers.1.mlp.up_proj.weight holds NaN"):
        pretrained.read_params(base, place, shapes)
