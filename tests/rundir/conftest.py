"""For tests of what a run keeps."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def small_collections() -> Iterator[None]:
    """A read that fails collects garbage, which takes half a second for all that tests imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
