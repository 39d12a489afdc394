"""A directory is made once, by whichever process is first, and is whole or not there."""

import pytest

from jaxsft.files import made_once
from jaxsft.files.places import PlaceError


def test_the_first_of_two_at_once_is_kept(tmp_path):
    parent = tmp_path / "cache"

    def write(directory, text="second"):
        if text == "second":  # meanwhile another process begins and is done first
            made_once.directory(parent, "name", lambda other: write(other, "first"))
        (directory / "file").write_text(text)

    found = made_once.directory(parent, "name", write)
    assert found == parent / "name" and (found / "file").read_text() == "first"
    assert list(parent.iterdir()) == [found]
    assert made_once.directory(parent, "name", write) == found


def test_what_can_not_be_written_leaves_nothing(tmp_path):
    def write(directory):
        (directory / "half").write_text("")
        raise OSError("No space left on device")

    with pytest.raises(PlaceError, match=f"^{tmp_path}.*: No space left on device"):
        made_once.directory(tmp_path, "name", write)
    assert not list(tmp_path.iterdir())
