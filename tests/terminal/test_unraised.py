"""A signal may come while a callback of C runs, which can't raise what its handler raises."""

import gc
import sys

import pytest

from jaxsft.errors import Stopped
from jaxsft.terminal import signals


@pytest.mark.parametrize(
    ("error", "count"), [(Stopped("x"), 0), (KeyboardInterrupt(), 0), (ValueError("x"), 1)]
)
def test_a_stop_there_shows_no_traceback_and_a_defect_does(error, count, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: shown.append(found.exc_value))

    def callback(phase, info):
        if phase == "start":
            raise error

    gc.callbacks.append(callback)
    try:
        with signals.unraised_in_silence():
            gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert shown == [error] * count
