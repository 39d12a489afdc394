"""The advice that PyTorch is missing is left out of the log, and nothing else is."""

import importlib.util
import logging
from pathlib import Path

from jaxsft.terminal import advice


def test_only_the_advice_that_does_not_hold_is_left_out(caplog):
    logger = logging.getLogger(advice.TRANSFORMERS)
    logger.addHandler(caplog.handler)
    try:
        advice.leave_out()
        advice.leave_out()
        logger.warning("PyTorch was not found. Models won't be available")
        logger.warning("%s: this tokenizer may be wrong", "PyTorch")
        logging.getLogger("absl").error("[process=0] _SignalingThread.run() raised an exception: x")
        logging.getLogger("absl").error("[process=0] something else")
    finally:
        logger.removeHandler(caplog.handler)
        logger.removeFilter(advice._holds_here)
        logging.getLogger("absl").removeFilter(advice._is_not_raised_too)
    assert {record.getMessage() for record in caplog.records} == {
        "PyTorch: this tokenizer may be wrong",
        "[process=0] something else",
    }
    assert not logger.filters


def test_the_advice_is_spelt_as_in_the_library():
    found = importlib.util.find_spec(advice.TRANSFORMERS)
    assert found and found.origin and advice.NO_PYTORCH in Path(found.origin).read_text()
