"""A small file is there whole or not at all, and nothing half-made stays beside it."""

import os

import pytest

from jaxsft import whole_files


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_could_not_be_written_leaves_what_was_there(tmp_path, monkeypatch, error):
    path = tmp_path / "config.json"
    whole_files.write_text(path, "old")

    def fails(_):
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(type(error)):
        whole_files.write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_that_write_at_once_do_not_meet(tmp_path, monkeypatch):
    """Processes of one number, in containers on one disk."""
    path, fsync = tmp_path / "error.json", os.fsync

    def another_writes(number):
        monkeypatch.setattr(os, "fsync", fsync)
        whole_files.write_text(path, "theirs")
        fsync(number)

    monkeypatch.setattr(os, "fsync", another_writes)
    whole_files.write_text(path, "mine")
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]
