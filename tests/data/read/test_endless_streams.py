"""Data without end or length are refused: an epoch has a number of rows."""

import os
import sys
import types

import pytest

from jaxsft.config import Source
from jaxsft.data.read import sources
from jaxsft.errors import DataError


class Stream:
    """As an iterable data set is: rows without number."""

    def __iter__(self):
        while True:
            yield {"text": "a"}


def test_a_data_set_that_streams_without_end_is_refused(monkeypatch):
    load = types.SimpleNamespace(load_dataset=lambda *_, **__: Stream())
    monkeypatch.setitem(sys.modules, "datasets", load)
    source = Source(path="hub://owner/endless", split="train")
    said = r"hub://owner/endless/train: is a Stream, a stream .* split='train\[:100000\]'"
    for look in (sources.form_of, sources.fingerprint_of, lambda one: next(sources.read_rows(one))):
        with pytest.raises(DataError, match=said):
            look(source)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="rows.jsonl: no such file"):
        sources.files_of(Source(path=str(tmp_path / "rows.jsonl")))
