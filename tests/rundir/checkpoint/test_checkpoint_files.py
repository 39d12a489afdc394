"""Files of checkpoints: which steps are there, what is removed or renamed, what is wrong of one."""

import os
from pathlib import Path

import pytest
from etils import epath
from fake_gcs import objects

from jaxsft.errors import CheckpointError, ConfigError, Stopped
from jaxsft.rundir.checkpoint import files

UNREADABLE = "/proc/self/mem"  # which has a size and refuses to be read


def make(step, *names):
    """A directory as Orbax leaves one that it commits; `names` beside its data."""
    for name in ("state/d/1", "state/empty", *names):
        (step / name).parent.mkdir(parents=True, exist_ok=True)
        (step / name).write_text("" if name == "state/empty" else f"{name} of {step.name}")
    return step


def committed(step):
    files.write_sizes(make(step, files.COMMITTED))
    return step


@pytest.fixture
def directory(tmp_path):
    return epath.Path(tmp_path)


def names(directory):
    return {path.name for path in directory.iterdir()}


def test_a_directory_need_not_be_there_and_is_named_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.checkpoint_directory(Path("later")) == epath.Path(tmp_path / "later")
    Path("there").mkdir()
    Path("link").symlink_to("there")
    assert files.checkpoint_directory(Path("there")).is_dir()
    assert files.checkpoint_directory(Path("link")).is_dir()
    Path("file").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/file: is a file"):
        files.checkpoint_directory(Path("file"))


def test_steps_are_directories_named_by_a_number(directory):
    for name in ("10", "9", "9.damaged", "best"):
        committed(directory / name)
    make(directory / "11")  # not committed
    (directory / "12").touch()
    assert files.committed_steps(directory) == [9, 10]
    assert files.committed_steps(directory / "none") == []


def test_a_listing_that_fails_is_an_error_of_the_checkpoints(directory, monkeypatch):
    def refuse(path):
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(CheckpointError, match="can't be listed: OSError: .*Input/output error"):
        files.committed_steps(directory)


def test_leftovers_are_of_steps_before(directory):
    for name in ("1", "2", "3", "5", "9.damaged", "8.orbax-checkpoint-tmp-1"):
        make(directory / name)
    committed(directory / "4")
    (directory / "0").touch()  # a file of someone else's
    assert [path.name for path in files.leftovers(directory, before=3)] == ["1", "2"]
    assert [path.name for path in files.leftovers(directory, before=10)] == (
        ["1", "2", "3", "5", "8.orbax-checkpoint-tmp-1"]
    )


def test_a_deletion_that_is_cut_off_leaves_no_checkpoint(directory, monkeypatch):
    step = committed(directory / "3")
    with monkeypatch.context() as patch:

        def stop(path):
            raise Stopped("SIGTERM")

        patch.setattr(type(step), "rmtree", stop)
        with pytest.raises(Stopped):
            files.remove(step)
    assert step.is_dir() and files.committed_steps(directory) == []
    files.remove(step)
    assert not step.exists()


def test_steps_are_set_aside_under_names_of_their_own(directory):
    found = []
    for content in ("first", "second", "third"):
        make(directory / "7", content)
        found.append(files.set_aside(directory / "7"))
        assert (found[-1] / content).exists()
    assert [path.name for path in found] == ["7.damaged", "7.damaged.2", "7.damaged.3"]
    assert names(directory) == {path.name for path in found}


def test_a_thousandth_time_is_refused(directory):
    for number in range(2, 999):
        (directory / f"7.damaged.{number}").mkdir()
    (directory / "7.damaged").mkdir()
    assert files.set_aside(make(directory / "7")).name == "7.damaged.999"
    with pytest.raises(CheckpointError, match="/7: set aside 999 times"):
        files.set_aside(make(directory / "7"))


def longer(file):
    file.write_text(file.read_text() + "x")


def shorter(file):
    file.write_text(file.read_text()[1:])


def no_directory(file):
    file.unlink()
    file.parent.rmdir()
    file.parent.touch()


def unreadable(file):
    file.unlink()
    Path(file).symlink_to(UNREADABLE)


@pytest.mark.parametrize(
    ("damage", "kind", "cause"),
    [
        (lambda file: None, None, None),
        (longer, "altered", "state/d/1 has 16 bytes; it had 15"),
        (shorter, "altered", "state/d/1 has 14 bytes; it had 15"),
        (lambda file: file.unlink(), "missing", "state/d/1 is not there; it had 15 bytes"),
        (no_directory, "missing", "state/d/1 is not there; it had 15 bytes"),
    ],
)
def test_a_step_is_compared_with_the_list_of_its_files(directory, damage, kind, cause):
    step = committed(directory / "20")
    damage(step / "state" / "d" / "1")
    failure = files.examine(step)
    assert (failure and failure.kind) == kind
    assert (failure and failure.cause) == cause


def test_a_file_that_has_its_size_must_also_give_its_bytes(directory, monkeypatch):
    step = make(directory / "20")
    unreadable(step / "state" / "d" / "1")
    files.write_sizes(step)
    failure = files.examine(step)
    assert failure is not None and failure.kind == "unreachable"


@pytest.mark.parametrize(
    "change", [lambda list_: list_.unlink(), shorter, lambda list_: list_.write_text("3")]
)
def test_without_its_list_a_step_has_nothing_wrong(directory, change):
    step = committed(directory / "20")
    change(next(step.glob("jaxsft_*")))
    (step / "state" / "d" / "1").unlink()
    assert files.examine(step) is None


def test_a_list_that_can_not_be_read_is_a_fault_of_the_disk(directory):
    step = committed(directory / "20")
    assert files.is_known(step)
    unreadable(next(step.glob("jaxsft_*")))
    failure = files.examine(step)
    assert failure is not None and failure.kind == "unreachable"


def test_what_jaxsft_writes_later_is_no_part_of_a_step(directory):
    step = committed(directory / "20")
    make(step, "jaxsft_read_back_0_of_1")
    files.write_sizes(step)
    (step / "jaxsft_read_back_0_of_1").unlink()
    assert files.examine(step) is None


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    (tmp_path / "bucket").mkdir()
    monkeypatch.syspath_prepend(str(Path(objects.__file__).parent))
    monkeypatch.setenv(objects.ROOT, str(tmp_path))
    return epath.Path("gs://bucket")


def test_in_a_bucket_a_step_is_set_aside_object_by_object(bucket):
    assert files.checkpoint_directory(bucket / "x") == bucket / "x"
    step = committed(bucket / "x" / "20")
    assert files.committed_steps(step.parent) == [20] and files.examine(step) is None
    content = (step / "state" / "d" / "1").read_text()
    target = files.set_aside(step)
    assert (target / "state" / "d" / "1").read_text() == content
    kept = {"state/d/1", "state/empty", files.COMMITTED}
    assert set(objects.names("bucket")) == {f"x/20.damaged/{name}" for name in kept}
