"""A pattern finds each file once, however links lead to it."""

import errno
import glob
import os

import pytest

from jaxsft.data.read.patterns import files_matching
from jaxsft.errors import DataError

FILES = (
    "a.jsonl",
    "b.txt",
    ".hidden.jsonl",
    "x/b.jsonl",
    "x/y/c.jsonl",
    "x/.h/d.jsonl",
    "z/e.jsonl",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        *("*.jsonl", "**/*.jsonl", "**", "x/**", "x/**/c.jsonl", "**/y/*", "[ab].*", "?/*.jsonl"),
        *("./*.jsonl", "**/**/*.jsonl", "x/*/*.jsonl", "**/.h/*.jsonl", ".*", "no/*.jsonl", "a*/*"),
        *("x/../*.jsonl", "nothing*"),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_without_links_it_finds_what_glob_finds(folder, pattern, absolute):
    pattern = f"{folder}/{pattern}" if absolute else pattern
    found, others = files_matching(pattern)
    expected = sorted({p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p)})
    assert [os.path.normpath(p) for p in found] == [os.path.normpath(p) for p in expected]
    assert others == []


def test_links_in_circles_end_and_give_no_file_twice(folder):
    """Two links to the folder itself are 2 to the power of 40 names for each file."""
    for link, target in (("one", "."), ("two", "."), ("x/up", ".."), ("z/side", "../x")):
        os.symlink(target, link)
    found, others = files_matching("**/*.jsonl")
    assert found == ["a.jsonl", "x/b.jsonl", "x/y/c.jsonl", "z/e.jsonl"]
    assert not set(found) & set(others)


def test_a_link_is_followed_where_the_pattern_names_it(folder):
    os.symlink("x", "link")
    assert files_matching("li*/*.jsonl")[0] == ["link/b.jsonl"]
    assert files_matching("**/link/**/c.jsonl")[0] == ["link/y/c.jsonl"]


def test_what_cannot_be_followed_or_searched_is_named(folder, monkeypatch):
    os.symlink("gone", "broken.jsonl")
    with pytest.raises(DataError, match="^broken.jsonl: is a link to what is not there"):
        files_matching("*.jsonl")
    assert files_matching("a.*")[0] == ["a.jsonl"]

    def refused(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(DataError, match="^x: can't be searched: Permission denied"):
        files_matching("x/*.jsonl")


def test_another_name_of_a_file_is_told(folder):
    os.symlink("a.jsonl", "again.jsonl")
    os.link("a.jsonl", "x/hard.jsonl")
    assert files_matching("**/a*.jsonl") == (["a.jsonl"], ["again.jsonl"])
    assert files_matching("**/*.jsonl")[1] == ["again.jsonl", "x/hard.jsonl"]


def found_where(monkeypatch, changed, pattern):
    """What a pattern finds where os.stat is another."""
    status = os.stat
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path, **options: changed(path, status(path, **options)))
        try:
            return files_matching(pattern)[0]
        except DataError as error:
            return str(error)


def test_files_of_a_mount_without_numbers_are_not_one(folder, monkeypatch):
    def unnumbered(path, status):
        return os.stat_result([status.st_mode, 0, *status[2:10]])

    os.symlink(".", "self")
    found = found_where(monkeypatch, unnumbered, "**/*.jsonl")
    assert found == ["a.jsonl", "x/b.jsonl", "x/y/c.jsonl", "z/e.jsonl"]


@pytest.mark.parametrize("pattern", ["*/*.jsonl", "z/*.jsonl", "**/*.jsonl"])
def test_a_mount_that_fails_is_not_left_out(folder, monkeypatch, pattern):
    def stale(path, status):
        if path == "z":
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return status

    said = found_where(monkeypatch, stale, pattern)
    assert said == "z: can't be searched: Stale file handle"
