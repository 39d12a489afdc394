"""The metrics file against a killed writer."""

import json

from jaxsft.rundir.metric_lines import JsonLines, finite


def test_lines_are_kept_and_a_half_written_one_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    for step in (1, 2, 3):
        lines.append({"step": step})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in lines.read()] == [1, 2, 3]
    lines.keep(lambda line: line["step"] <= 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_lines_that_a_failing_disk_spoiled_stop_no_start_and_are_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    nested = b'{"step": ' + b"[" * 100_000 + b"\n"
    spoiled = b'{"step": 1}\n\x00\x00\xff\n[2]\n{"stex": 2}\n' + nested + b'{"step": 3}\n'
    path.write_bytes(spoiled)
    lines = JsonLines(path)
    assert [line["step"] for line in lines.read()] == [1, 3]
    lines.keep(lambda line: line["step"] <= 2)
    assert path.read_text() == '{"step": 1}\n'
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == spoiled
    lines.keep(lambda line: True)
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.jsonl", "metrics.jsonl.damaged"}


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", writes=False)
    lines.append({"step": 1})
    lines.keep(lambda line: True)
    assert lines.read() == [] and not list(tmp_path.iterdir())


def test_nan_is_null_not_a_number():
    assert finite(float("nan")) is None and finite(float("inf")) is None and finite(2) == 2.0
