"""A place that can't be used is named, with what to do; a library's wrapping does not hide it."""

import errno
import os
from pathlib import Path

import pytest

from jaxsft.data.cache.store import write_json
from jaxsft.errors import BAD_CONFIG, BAD_MODEL
from jaxsft.files import places
from jaxsft.files.caches import cache_root
from jaxsft.files.places import PlaceError
from jaxsft.rundir.checkpoint import saving
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.workdir import opened


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")  # as write() does: without a file


@pytest.mark.parametrize("number", sorted(places._REMEDIES), ids=lambda n: errno.errorcode[n])
def test_each_failure_has_its_place_and_remedy(number):
    with pytest.raises(PlaceError) as caught, places.using("--workdir=/w", "/w/metrics.jsonl"):
        raise OSError(number, os.strerror(number))
    said = str(caught.value)
    begin = f"--workdir=/w: /w/metrics.jsonl: {os.strerror(number)}; {places._REMEDIES[number]}"
    assert said == begin and caught.value.exit_code == BAD_CONFIG


def test_a_path_is_said_once():
    with pytest.raises(PlaceError, match=r"^--workdir=/w: Read-only file system; it can't"):
        with places.using("--workdir=/w"):
            raise OSError(errno.EROFS, "Read-only file system", "/w")


@pytest.mark.parametrize(
    "below", ["file", "file/runs/x", "/proc/x"], ids=["file", "below a file", "no folders there"]
)
def test_a_workdir_that_cannot_be_made_is_refused(tmp_path, monkeypatch, below):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(PlaceError, match=f"^--workdir={below}: .*name another"):
        with opened(below):
            pass


def test_a_workdir_that_is_there_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(places.tempfile, "TemporaryFile", full)
    with pytest.raises(PlaceError, match=f"^--workdir={tmp_path}: No space left .*free some space"):
        with opened(str(tmp_path)):
            pass
    monkeypatch.undo()
    with opened(str(tmp_path)):
        assert not list(tmp_path.iterdir())


def test_without_a_home_the_caches_say_what_to_set(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(PlaceError, match="HOME is not set .* set XDG_CACHE_HOME"):
        cache_root(None)
    assert cache_root("/here") == Path("/here")


def test_a_full_disk_names_the_file_that_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(PlaceError, match=f"^{tmp_path}/m.jsonl: No space left on device; the disk"):
        JsonLines(tmp_path / "m.jsonl").append({"step": 1})
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(PlaceError, match=f"^{tmp_path}/report.json: No space left on device"):
        write_json(tmp_path / "report.json", {})


def test_what_a_library_wraps_is_found():
    try:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "/held/by/others")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as error:
        found = places.user_error(error)
    assert "/held/by/others: Permission denied; name a place of your own" in str(found)
    spelt = ValueError(
        "FAILED_PRECONDITION: Error writing '/run/checkpoints/3/d/a' [OS error 28: ENOSPC"
        " No space left on device] [source locations='internal/os.cc:12']"
    )
    assert str(places.user_error(spelt)).startswith(
        "/run/checkpoints/3/d/a: No space left on device;"
    )
    assert str(places.user_error(OSError(errno.ENOSPC, "full"), "/w")).startswith(
        "/w: full; the disk"
    )


@pytest.mark.parametrize(
    "error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "none", "/x"), ConnectionError("x")]
)
def test_another_error_is_not_a_places(error):
    assert places.user_error(error) is None


def test_a_checkpoint_that_finds_no_room_names_its_file(tmp_path):
    spelt = (
        f'RESOURCE_EXHAUSTED: Failed writing: "{tmp_path}/3/state/d/73f": Failed to write 12 bytes'
        " to file 27: No space left on device [os_error_code='28']"
    )
    found = saving.not_saved(tmp_path, ValueError(spelt))
    assert found.exit_code == BAD_CONFIG
    assert str(found).startswith(f"{tmp_path}/3/state/d/73f: No space left on device; make room")
    other = saving.not_saved(tmp_path, ValueError("DATA_LOSS"))
    assert other.exit_code == BAD_MODEL and "can't save: ValueError: DATA_LOSS" in str(other)
