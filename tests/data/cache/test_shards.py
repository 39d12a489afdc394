"""Whoever makes the shards, one process, two, or a Beam pipeline, the cache is the same bytes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxsft.config import Data, Source
from jaxsft.data.cache import shards
from jaxsft.data.cache.prepare import prepare
from jaxsft.errors import ConfigError, DataError, Stopped

ROOT = Path(__file__).resolve().parents[3]
SHARD_ROWS = 50


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Two files of several shards each, with a bad row and one that is too long."""
    monkeypatch.setattr(shards, "SHARD_ROWS", SHARD_ROWS)
    made = []
    for name, count in (("a", 2 * SHARD_ROWS + 7), ("b", SHARD_ROWS + 1)):
        rows = [{"prompt": f"say {i}", "completion": f"{name} {i}"} for i in range(count)]
        rows[5]["completion"] = "long " * 99
        lines = [json.dumps(row) for row in rows]
        lines[SHARD_ROWS] = "{"
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        made.append(Source(path=str(path)))
    return tuple(made)


def data_of(tmp_path, name, **options):
    return Data(
        train=(),
        sequence_length=64,
        bad_rows="skip",
        cache_dir=str(tmp_path / name),
        **options,
    )


def contents(cache):
    return {path.name: path.read_bytes() for path in cache.directory.iterdir()}


def test_two_processes_make_the_bytes_that_one_makes(sources, tmp_path, tokenizer_dir):
    one = prepare(sources, data_of(tmp_path, "one", workers=1), tokenizer_dir)
    two = prepare(sources, data_of(tmp_path, "two", workers=2), tokenizer_dir)
    assert one.fingerprint == two.fingerprint
    assert len(one.manifest.shards) == 5 and one.report.dropped["not JSON"] == 2
    first, second = contents(one), contents(two)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_beam_makes_the_bytes_that_one_process_makes(sources, tmp_path, tokenizer_dir):
    pytest.importorskip("apache_beam", reason="the extra [beam] is not installed")
    from jaxsft.data.cache import beam

    one = prepare(sources, data_of(tmp_path, "one", workers=1), tokenizer_dir)
    runner = beam.maker(["--runner=DirectRunner"])
    other = prepare(sources, data_of(tmp_path, "beam"), tokenizer_dir, make=runner)
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_without_beam_the_extra_is_named(monkeypatch):
    from jaxsft.data.cache import beam

    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxsft\[beam\]'"):
        beam.maker([])


def test_little_work_is_not_shared(sources, tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(shards, "_in_processes", None)  # would fail if called
    data = data_of(tmp_path, "auto")
    assert data.workers is None
    assert len(prepare(sources, data, tokenizer_dir)) > SHARD_ROWS


def die(job, chunk):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_one_clear_error(sources, tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(shards, "encode_shard", die)
    with pytest.raises(DataError, match="one of the 2 processes .* smaller data.workers"):
        prepare(sources, data_of(tmp_path, "dead", workers=2), tokenizer_dir)
    assert list((tmp_path / "dead").iterdir()) == []


def stop(job, chunk):
    os.kill(os.getpid(), signal.SIGTERM)


def lack_memory(job, chunk):
    raise MemoryError


def test_processes_that_are_told_to_stop_are_no_bad_data(
    sources, tmp_path, tokenizer_dir, monkeypatch
):
    """A signal to all processes may reach the workers first."""
    monkeypatch.setattr(shards, "encode_shard", stop)
    with pytest.raises(Stopped, match="SIGTERM; start the same command again"):
        prepare(sources, data_of(tmp_path, "stopped", workers=2), tokenizer_dir)


def test_a_lack_of_memory_names_the_rows_and_is_no_bad_row(
    sources, tmp_path, tokenizer_dir, monkeypatch
):
    monkeypatch.setattr(shards, "outcomes", lack_memory)
    with pytest.raises(DataError, match=r":1 to \d+: not enough memory .* data.workers"):
        prepare(sources, data_of(tmp_path, "small", workers=1), tokenizer_dir)


PREPARE = """
import sys
from jaxsft.config import Data, Source
from jaxsft.data.cache.prepare import prepare
if __name__ == "__main__":
    path, cache_dir, tokenizer = sys.argv[1:]
    data = Data(train=(), sequence_length=64, cache_dir=cache_dir, workers=2, bad_rows="skip")
    prepare((Source(path=path),), data, tokenizer, lambda rows: print(rows, flush=True))
"""


def children_of(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
def test_workers_end_with_a_killed_parent(sources, tmp_path, tokenizer_dir):
    script = tmp_path / "prepare_it.py"
    script.write_text(PREPARE)
    path = Path(sources[0].path)
    path.write_text(path.read_text().replace("{\n", "") * 800)
    command = [sys.executable, str(script), str(path), str(tmp_path / "cache"), tokenizer_dir]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout and parent.stdout.readline()
        children = children_of(parent.pid)
        parent.kill()
    assert len(children) >= 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "workers outlive the process that started them"
        time.sleep(0.1)


def test_a_job_is_its_fingerprint(tmp_path):
    job = shards.ShardJob("f", tmp_path, "t", data_of(tmp_path, "x"), 5)
    assert job == dataclasses.replace(job, directory=tmp_path / "other")
    assert hash(job) == hash(dataclasses.replace(job, vocab_size=6))
    assert job != dataclasses.replace(job, fingerprint="g")
