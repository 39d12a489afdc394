"""A file has its name only when it is whole, and what failed leaves nothing beside it."""

import errno
import os

import pytest

from jaxsft.files.whole_files import write_text


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_file_that_was_there_alone(tmp_path, monkeypatch, error):
    path = tmp_path / "config.json"
    write_text(path, "before\n")

    def fails(number):
        raise error

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(type(error)):
        write_text(path, "after\n")
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert path.read_text() == "before\n"


def test_hosts_whose_processes_have_one_number_write_apart(tmp_path, monkeypatch):
    """Containers number their processes from 1."""
    path, real, inner = tmp_path / "error.json", os.fsync, []

    def meanwhile(number):
        real(number)
        if not inner:
            inner.append(1)
            write_text(path, "theirs\n")

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "fsync", meanwhile)
    write_text(path, "ours\n")
    assert path.read_text() == "ours\n" and len(list(tmp_path.iterdir())) == 1
