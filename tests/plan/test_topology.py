"""Slices that aren't there, described as they are."""

import pytest

from jaxsft.errors import ConfigError
from jaxsft.plan import topology

TORUS, MESH = (True, True, True), (False, False, False)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        # Three dimensions: whole cubes of 64 chips are tori. cloud.google.com/tpu/docs/v4 and v5p.
        *(
            (f"{kind}:{shape}", MESH)
            for kind in ("v4", "v5p", "v7x")
            for shape in ("2x2x1", "2x4x4")
        ),
        *(
            (f"{kind}:{shape}", TORUS)
            for kind in ("v4", "v5p", "v7x")
            for shape in ("4x4x4", "4x4x8")
        ),
        ("v5p:4x8x12", TORUS),
        # Two: a dimension of 16 closes; MaxText's table of slices says so for each of these.
        *((f"{kind}:{shape}", MESH) for kind in ("v5e", "v6e") for shape in ("2x2", "4x8", "8x8")),
        ("v5e:8x16", (False, True, False)),
        ("v6e:8x16", (False, True, False)),
        ("v5e:16x16", (True, True, False)),
        ("v6e:16x16", (True, True, False)),
    ],
)
def test_the_last_chip_is_linked_to_the_first_where_the_slice_is_a_torus(name, wrap):
    kind, shape = name.split(":")
    sizes = [int(size) for size in shape.split("x")]
    assert topology.SliceShape.of(sizes, topology._TPUS[kind].dimensions).wrap == wrap


@pytest.mark.parametrize(
    ("sizes", "host"), [((1, 1), (1, 1, 1)), ((2, 2), (2, 2, 1)), ((4, 4, 4), (2, 2, 1))]
)
def test_a_host_has_a_square_of_four_chips(sizes, host):
    assert topology.SliceShape.of(sizes, 3).host == host


@pytest.mark.parametrize(
    ("sizes", "dimensions", "links"),
    [
        ((1, 1), 2, 1 / 4),
        ((1, 1, 1), 3, 1 / 6),
        ((2, 2, 1), 3, 2 / 6),
        ((2, 4, 4), 3, 3 / 6),
        ((4, 4, 4), 3, 1),
        ((8, 16), 2, 3 / 4),
    ],
)
def test_links_count_that_lead_to_another_chip_of_the_slice(sizes, dimensions, links):
    assert topology.SliceShape.of(sizes, dimensions).links(sizes, dimensions) == links


def test_a_shape_of_too_many_sizes_is_refused():
    with pytest.raises(ConfigError, match="v5p:2x2x2x2: expected at most three sizes"):
        topology.open_topology("v5p:2x2x2x2")
