"""A run in a bucket: killed, started again, exported; and what is refused before any work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from fake_gcs import objects, server

from jaxsft.errors import CheckpointError, ConfigError
from jaxsft.files import buckets
from jaxsft.report import endings
from jaxsft.rundir.workdir import Workdir
from tests import programs
from tests.devices.test_distributed import finish, start
from tests.programs import ROOT
from tests.test_train import command, read_lines, weights, weights_in, without_clock

FAKE = ROOT / "tests" / "fake_gcs"
URL = "gs://bucket/runs/x"
CLIENTS = ("gcsfs", "google.cloud.storage")
FLAGS = (
    "--config.train.steps=40",
    "--config.checkpoint.save_every_steps=10",
    "--config.eval.every_steps=15",
    "--config.eval.prompts=1",
)


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """What a program finds a store with: of two buckets, one of them read-only."""
    root, scratch = (tmp_path_factory.mktemp(name) for name in ("buckets", "scratch"))
    for bucket in ("bucket", objects.READ_ONLY):
        (root / bucket).mkdir()
    with pytest.MonkeyPatch.context() as patch, server.serving() as url:
        patch.syspath_prepend(str(FAKE))
        found = {
            objects.ROOT: str(root),
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "fake",
            "TMPDIR": str(scratch),
        }
        for name, value in found.items():
            patch.setenv(name, value)
        yield found | {"PYTHONPATH": f"{ROOT}:{FAKE}"}


def train(workdir, *flags):
    return programs.train(workdir, *flags, check=False)


def export(*flags):
    return programs.tool("export_hf", f"--workdir={URL}", *flags)


def fetched(prefix, directory):
    """The objects under gs://bucket/prefix as files."""
    directory.mkdir(parents=True)
    for name in objects.names("bucket"):
        if name.startswith(f"{prefix}/"):
            file = directory / name.removeprefix(f"{prefix}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(objects.file_of("bucket", name).read_bytes())
    return directory


@pytest.fixture(scope="module")
def local(tmp_path_factory, surroundings):
    """An uninterrupted run on a local disk, where no Google package may be imported."""
    workdir = tmp_path_factory.mktemp("local") / "x"
    with pytest.MonkeyPatch.context() as patch:
        for name in CLIENTS:
            patch.setitem(sys.modules, name, None)  # importing it is an error
        done = train(workdir, *FLAGS)
    assert done.returncode == 0, done.stderr
    return workdir


def killed_after_a_checkpoint(env):
    """Kills a run in the bucket once it has a checkpoint; returns its newest one."""
    running = subprocess.Popen(
        command(URL, *FLAGS),
        env=os.environ | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    commit = objects.file_of("bucket", "runs/x/checkpoints/10/commit_success.txt")
    while not commit.exists():
        assert running.poll() is None
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    end = "/commit_success.txt"
    names = [name.split("/") for name in objects.names("bucket") if name.endswith(end)]
    return max(int(parts[3]) for parts in names if parts[2] == "checkpoints" and len(parts) == 5)


@pytest.fixture(scope="module")
def resumed(surroundings, tmp_path_factory):
    """A run in the bucket that was killed and started again, as files, and what it said."""
    parent = tmp_path_factory.mktemp("resumed")
    saved = killed_after_a_checkpoint(surroundings)
    after_kill = fetched("runs/x", parent / "killed")
    before = set(Path(surroundings["TMPDIR"]).glob("jaxsft-*"))  # of the killed run
    done = train(URL, *FLAGS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(Path(surroundings["TMPDIR"]).glob("jaxsft-*")) == before
    return saved, after_kill, fetched("runs/x", parent / "x"), done.stdout


def test_a_checkpoint_never_knows_more_than_the_copied_metrics(resumed):
    saved, after_kill, _, _ = resumed
    assert saved < 40
    steps = [line["step"] for line in read_lines(after_kill / "metrics.jsonl") if "loss" in line]
    assert steps[:saved] == list(range(1, saved + 1))


def test_a_killed_run_in_a_bucket_equals_an_uninterrupted_one_on_a_disk(resumed, local):
    saved, _, workdir, said = resumed
    assert f"from step {saved} of 40" in said
    for name in ("metrics.jsonl", "samples.jsonl"):
        ours, theirs = (without_clock(read_lines(path / name)) for path in (workdir, local))
        assert ours == theirs
    ours, theirs = weights(workdir), weights(local)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name, strict=True)


def test_the_bucket_holds_what_a_local_directory_does(resumed, local):
    _, _, workdir, said = resumed
    assert {path.name for path in workdir.iterdir()} == {path.name for path in local.iterdir()}
    exports = [{path.name for path in (run / "export").iterdir()} for run in (workdir, local)]
    assert exports[0] == exports[1]
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"30", "40"}
    for shown in ("report.html", "metrics.jsonl", "export (Hugging Face"):
        assert f"{URL}/{shown}" in said
    assert "<title>x" in (workdir / "report.html").read_text()
    assert not (ROOT / "gs:").exists()


def test_the_tool_exports_from_and_to_a_bucket(resumed, surroundings, tmp_path):
    place = "gs://bucket/exports/x"
    # What a copy that was cut off leaves: no marker, and files of an earlier export.
    for name in (".jaxsft_unfinished", "model-00001-of-00002.safetensors"):
        objects.write("bucket", f"exports/x/{name}", b"")
    done = export(f"--output={place}")
    assert done.returncode == 0, done.stderr
    assert f"step 40 of {URL}: {place}" in done.stdout
    found, own = fetched("exports/x", tmp_path / "x"), resumed[2] / "export"
    assert {path.name for path in found.iterdir()} == {path.name for path in own.iterdir()}
    for name, array in weights(resumed[2]).items():
        np.testing.assert_array_equal(weights_in(found)[name], array, err_msg=name)
    done = export(f"--output={place}.gguf", "--format=gguf", "--step=30")
    assert done.returncode == 0, done.stderr
    assert objects.file_of("bucket", "exports/x.gguf").read_bytes().startswith(b"GGUF")


def two_processes(surroundings, files, *more):
    """Each has local files of its own; what both said, and the bucket's files."""
    flags = ("--config.train.steps=4", "--config.checkpoint.save_every_steps=2", *more)
    done = finish(start("gs://bucket/runs/two", 2, *flags, surroundings=surroundings))
    assert [code for code, _, _ in done] == [0, 0], done
    found = fetched("runs/two", files)
    steps = [line["step"] for line in read_lines(found / "metrics.jsonl") if "loss" in line]
    assert steps == [1, 2, 3, 4] and (found / "export" / "jaxsft_export.json").is_file()
    return done[0][1]


@pytest.fixture(scope="module")
def shared(surroundings, tmp_path_factory):
    return two_processes(surroundings, tmp_path_factory.mktemp("shared") / "files")


@pytest.mark.slow  # two processes elsewhere, and buckets by one, show each alone
def test_two_processes_share_a_directory_in_the_bucket(shared):
    assert "from step" not in shared


@pytest.mark.slow  # one process that is started again shows how files are fetched
def test_two_processes_started_again_find_the_finished_run(shared, surroundings, tmp_path):
    more = ("--config.checkpoint.export=false",)
    assert "from step 4 of 4" in two_processes(surroundings, tmp_path / "files", *more)


def test_a_foreign_directory_is_not_exported_over(resumed, surroundings):
    objects.write("bucket", "foreign/notes.txt", b"mine")
    done = export("--output=gs://bucket/foreign")
    assert done.returncode == 64
    assert "gs://bucket/foreign: exists and was not written by an export" in done.stderr
    assert [n for n in objects.names("bucket") if n.startswith("foreign/")] == ["foreign/notes.txt"]


@pytest.mark.parametrize(
    ("workdir", "message"),
    [
        ("gs://nowhere/x", "--workdir=gs://nowhere/x: can't be used: RuntimeError: 404 GET"),
        ("gs://read-only/x", "--workdir=gs://read-only/x: can't be used: PermissionError: 403"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_refused_at_once(surroundings, workdir, message):
    before = objects.names("bucket")
    done = train(workdir)
    assert done.returncode == 64 and not done.stdout
    assert message in done.stderr and "Traceback" not in done.stderr
    assert objects.names("bucket") == before


@pytest.mark.parametrize("url", ["gs://bucket", "s3://bucket/x"])
def test_what_is_no_directory_of_a_bucket_is_refused(url):
    with pytest.raises(ConfigError, match=f"--workdir={url}: expected a local path or gs://bucket"):
        buckets.open_directory("--workdir", url)


def test_a_bucket_without_its_packages_names_the_extra(surroundings, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    done = train(URL)
    assert done.returncode == 64
    assert f"--workdir={URL}: needs gcsfs; pip install 'jaxsft[gcs]'" in done.stderr


def test_a_failed_run_says_so_in_the_bucket(tmp_path):
    files, bucket = tmp_path / "files", tmp_path / "bucket"
    files.mkdir()
    bucket.mkdir()
    workdir = Workdir("gs://bucket/failed", files, epath.Path(bucket))
    endings.write_ending(workdir, ConfigError("/nowhere/model"))
    assert "/nowhere/model" in (bucket / "error.json").read_text()


def test_nobody_needs_google_packages_for_a_local_run():
    code = (
        "import sys, jaxsft.run; print(sorted({'.'.join(m.split('.')[:3]) for m in sys.modules}))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", code]
    loaded = subprocess.run(words, env=environment, capture_output=True, text=True).stdout
    assert "'jaxsft.rundir'" in loaded
    # The name google.cloud alone is there where another package puts a file beside Google's.
    for name in ("'gcsfs'", "'tensorflow'", "'google.cloud.", "'google.auth'", "'google.api_core'"):
        assert name not in loaded


def test_a_copy_that_fails_is_an_error(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"123")
    with pytest.raises(CheckpointError, match="nowhere/m: can't be written: .*No such file"):
        buckets.upload(file, epath.Path(tmp_path / "nowhere" / "m"))
    with pytest.raises(CheckpointError, match="/dev/null: has 0 bytes of 3"):
        buckets.upload(file, epath.Path("/dev/null"))


def test_a_bucket_that_fails_is_no_empty_one(tmp_path, monkeypatch):
    target = tmp_path / "here"
    buckets.download(epath.Path(tmp_path / "nothing"), target)
    assert not target.exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(CheckpointError, match="there: can't be read: .*directory"):
        buckets.download(epath.Path(tmp_path / "there"), target)
    assert not target.exists()


def test_files_are_copied_when_they_changed_and_not_too_often(tmp_path):
    files, bucket = tmp_path / "files", tmp_path / "bucket"
    files.mkdir()
    bucket.mkdir()
    workdir = Workdir("gs://bucket/x", files, epath.Path(bucket))
    (files / "a").write_text("1")
    assert workdir.copy_now_and_then() is None and (bucket / "a").read_text() == "1"
    (files / "a").write_text("1 2")
    assert workdir.copy_now_and_then() is None and (bucket / "a").read_text() == "1"
    (bucket / "a").write_text("kept")
    (files / "b").write_text("3")
    workdir.copy()
    assert (bucket / "a").read_text() == "1 2" and (bucket / "b").read_text() == "3"
    (bucket / "a").write_text("kept")
    workdir.copy()
    assert (bucket / "a").read_text() == "kept"


def test_what_writers_keep_in_directories_is_copied_and_what_they_took_away_is_not(
    tmp_path, monkeypatch
):
    files, bucket = tmp_path / "files", tmp_path / "bucket"
    (files / "tensorboard").mkdir(parents=True)
    (bucket / "tensorboard").mkdir(parents=True)
    (files / "tensorboard" / "events").write_text("1")
    (files / "gone").write_text("1")
    workdir = Workdir("gs://bucket/x", files, epath.Path(bucket))
    copy = buckets.upload

    def upload(file, target):
        if file.name == "gone":
            file.unlink()  # by a thread, just now
        copy(file, target)

    monkeypatch.setattr(buckets, "upload", upload)
    workdir.copy()
    assert (bucket / "tensorboard" / "events").read_text() == "1"
    assert not (bucket / "gone").exists()


def test_a_copy_that_no_checkpoint_waits_for_may_fail(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").write_text("1")
    workdir = Workdir("gs://bucket/x", tmp_path / "files", epath.Path(tmp_path / "nowhere"))
    failed = workdir.copy_now_and_then()
    assert failed is not None and f"{tmp_path}/nowhere/a: can't be written" in failed
    assert workdir.copy_now_and_then() is None
    with pytest.raises(CheckpointError, match="nowhere/a"):
        workdir.copy()


def test_an_export_whose_copy_was_cut_off_has_no_marker(tmp_path, monkeypatch):
    local, there = tmp_path / "local", tmp_path / "there"
    for directory, text in ((local, "new"), (there, "old")):
        directory.mkdir()
        for name in ("a", "marker", "z"):
            (directory / name).write_text(text)
    copy = buckets.upload

    def fails_at_z(file, target):
        if file.name == "z":
            raise CheckpointError("the network is gone")
        copy(file, target)

    monkeypatch.setattr(buckets, "upload", fails_at_z)
    with pytest.raises(CheckpointError, match="the network is gone"):
        buckets._upload_directory(local, epath.Path(there), "marker")
    assert {file.name for file in there.iterdir()} == {".jaxsft_unfinished", "a", "z"}
    monkeypatch.undo()
    buckets._upload_directory(local, epath.Path(there), "marker")
    assert {file.name: file.read_text() for file in there.iterdir()} == dict.fromkeys(
        ("a", "marker", "z"), "new"
    )
