"""Files of every kind give the same rows, each with its place; a broken file is an error."""

import gzip
import json
import os
import sys
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from array_record.python import array_record_module

from jaxsft.config import Source
from jaxsft.data.conversation import BadRow, PlainText
from jaxsft.data.read import hub, sources
from jaxsft.errors import DataError

TEXTS = ["a", "é 你好 🙂", '"\\ \n', "[1, {", "x" * 3000]
ROWS = [{"text": text, "n": n} for n, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write_array_record(path, records):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:2")
    for record in records:
        writer.write(record)
    writer.close()


def write(path):
    """ROWS in a file of the kind that its name says."""
    name = path.name.lower()
    array = json.dumps(ROWS, indent=1, ensure_ascii=False).encode()
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)
    elif name.endswith(".array_record"):
        write_array_record(path, LINES.splitlines())
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(array if ".json." in name else LINES))
    elif name.endswith((".zst", ".zstd")):
        half = len(LINES) // 2
        frames = [pyarrow.compress(x, "zstd", asbytes=True) for x in (LINES[:half], LINES[half:])]
        path.write_bytes(b"".join(frames))
    else:
        path.write_bytes(LINES if name.endswith(("l", "ndjson", "lines.json")) else array)
    return str(path)


def texts(path, **fields):
    records = list(sources.read_source(Source(path=str(path), **fields)))
    assert all(isinstance(record, PlainText) for record in records), records
    return [(record.row, record.text) for record in records]


KINDS = ["jsonl", "ndjson", "jsonl.gz", "jsonl.zst", "ndjson.zstd", "json", "json.gz"]
KINDS += ["lines.json", "parquet", "array_record", "JSONL"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("jaxsft.data.read.file_rows._BATCH_ROWS", 2)
    assert texts(write(tmp_path / f"train.{kind}")) == list(enumerate(TEXTS, start=1))


def test_rows_are_lines_and_blank_lines_are_no_rows(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"text": "a"}\r\n\n  \n{"text": "b"}')
    assert texts(path) == [(1, "a"), (4, "b")]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_an_array_is_read_alike_wherever_its_pieces_end(tmp_path, monkeypatch, chunk):
    path = write(tmp_path / "train.json")
    monkeypatch.setattr("jaxsft.data.read.file_rows._READ_BYTES", chunk)
    assert texts(path) == list(enumerate(TEXTS, start=1))


def test_memory_holds_a_part_of_an_array(tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    path.write_text("[" + ",".join('{"text": "%s"}' % ("x" * 1000) for _ in range(1000)) + "]")
    monkeypatch.setattr("jaxsft.data.read.file_rows._READ_BYTES", 400)
    monkeypatch.setattr("jaxsft.data.read.strict_json.MAX_LINE_BYTES", 1100)
    assert len(texts(path)) == 1000
    monkeypatch.setattr("jaxsft.data.read.strict_json.MAX_LINE_BYTES", 900)
    with pytest.raises(DataError, match=r"train.json:\d: line of more than 900 bytes"):
        texts(path)


@pytest.mark.parametrize(
    "content, match",
    [
        (b'[{"text": "a"}, {"text": ', "train.json:2: is not JSON: Expecting value"),
        (b'[{"text": "a"}', "train.json:1: is not JSON: the array does not end"),
        (b'[{"text": "a"} ', r"train.json:2: is not a JSON array: expected ',', found the end of"),
        (b'[{"text": "a"} {"text": "b"}]', "train.json:2: is not .* expected ',', found '{'"),
        (b'[{"text": "a"}] []', r"train.json:2: has '\[' after the end of the array"),
        (
            b'[{"text": "\xff"}]',
            "train.json:1: can't be read .UnicodeDecodeError: 'utf-8' codec .* 0xff",
        ),
        (b"[" * 100_000, "train.json:1: is nested too deep to read"),
        (b"[1", "train.json:1: is not JSON: the array does not end"),
        (b"[]", "train.json: the file is empty"),
        (b"", "train.json: the file is empty"),
        (b'{\n "text": "a"\n}', "train.json:1: the first line is not JSON.*expected an array of o"),
        (b"\xef\xbb\xbf[]", r"train.json:1: the first line starts with a byte order mark \(BOM\)"),
    ],
)
def test_a_broken_array_is_an_error_at_its_row(tmp_path, content, match):
    path = tmp_path / "train.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        list(sources.read_source(Source(path=str(path), format="text")))


def test_an_element_of_an_array_is_parsed_as_strictly_as_a_line(tmp_path):
    path = tmp_path / "train.json"
    path.write_bytes(b'[{"text": "a", "text": "b"}, 3, {"text": NaN}, {"text": null}]')
    records = sources.read_source(Source(path=str(path), format="text"))
    kinds = [record.kind for record in records if isinstance(record, BadRow)]
    assert kinds == ["duplicate key", "not an object", "NaN or Infinity", "missing key"]


@pytest.mark.parametrize("kind", ["parquet", "array_record"])
def test_a_table_that_is_broken_is_an_error(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    whole = Path(write(path)).read_bytes()
    for content in (whole[: len(whole) // 2], b"junk", b"", whole[:10] + b"junk" + whole[14:-9]):
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=f"train.{kind}:1: .* whole .*cut short|{kind}:1: .*Arrow.* whole"
        ):
            list(sources.read_source(Source(path=str(path))))


def test_an_array_record_with_a_damaged_block_is_an_error_there(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxsft.data.read.file_rows._BATCH_ROWS", 2)
    path = tmp_path / "train.array_record"
    write_array_record(path, [b'{"text": "%d"}' % (n**90) for n in range(2000)])
    content = bytearray(path.read_bytes())
    content[70_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train.array_record:\d\d+: can't be read .* mismatch"):
        list(sources.read_source(Source(path=str(path))))


def test_parquet_arguments_have_no_nulls_of_other_rows(tmp_path):
    """Keys that Arrow adds to objects are not there in a file either."""
    path = tmp_path / "train.parquet"
    rows = []
    for key in ("city", "zip"):
        call = {"type": "function", "function": {"name": "f", "arguments": {key: "x"}}}
        rows.append({"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]})
    rows.append({"messages": [{"role": "assistant", "content": "y", "tool_calls": None}]})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    first, second, third = sources.read_source(Source(path=str(path)))
    for record, key in ((first, "city"), (second, "zip")):
        assert record.messages[0].tool_calls[0]["function"]["arguments"] == {key: "x"}
    assert third.messages[0].tool_calls == ()


# Which files.


def test_a_pattern_stands_for_its_files_in_the_order_of_names(tmp_path):
    for name in ("b", "a", "c/d"):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": name}))
    source = Source(path=f"{tmp_path}/*.jsonl")
    assert sources.files_of(source) == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    records = list(sources.read_source(source))
    assert [(r.file[-7:], r.row, r.text) for r in records] == [
        ("a.jsonl", 1, "a"),
        ("b.jsonl", 1, "b"),
    ]
    assert len(sources.files_of(Source(path=f"{tmp_path}/**/*.jsonl"))) == 3
    named = tmp_path / "[a].jsonl"
    named.write_text('{"text": ""}')
    assert sources.files_of(Source(path=str(named))) == [str(named)]


def test_a_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "train.jsonl")
    assert len(texts("~/train.jsonl")) == len(ROWS)


@pytest.mark.parametrize(
    "path, match",
    [
        ("absent.jsonl", "absent.jsonl: no such file"),
        ("*.absent", r"\*.absent: no file matches the pattern"),
        ("folder", "folder: is a directory; give a pattern such as .*/folder/\\*.jsonl"),
        ("notes.txt", "notes.txt: unknown kind of file; expected .jsonl, .ndjson, .json, .parquet"),
        ("x.parquet.gz", "x.parquet.gz: unknown kind of file"),
    ],
)
def test_a_path_without_data_is_an_error(tmp_path, path, match):
    (tmp_path / "folder").mkdir()
    for name in ("notes.txt", "x.parquet.gz"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=match):
        sources.files_of(Source(path=f"{tmp_path}/{path}"))


@pytest.mark.parametrize("field", [{"subset": "main"}, {"split": "test"}])
def test_subset_and_split_are_refused_where_they_would_say_nothing(tmp_path, field):
    (value,) = field.values()
    with pytest.raises(DataError, match=f"train.jsonl: .*{value!r}.* are of data sets of the hub"):
        sources.files_of(Source(path=write(tmp_path / "train.jsonl"), **field))


def test_the_format_is_that_of_the_first_row_that_can_be_read(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"tex\n{"text": "a"}\n{"messages": []}\n')
    bad, text, other = sources.read_source(Source(path=str(path)))
    assert text.text == "a" and bad.kind == "not JSON"
    assert "has no 'text', which format 'text' needs; its keys are ['messages']" in str(other)


@pytest.mark.parametrize(
    "fields, match",
    [
        ({}, r"train.jsonl: format='auto' finds no format: the first row has the keys \['txt'\]"),
        ({"format": "text", "columns": {"txt": "txt"}}, r"train.jsonl: columns={'txt': 'txt'}: fo"),
    ],
)
def test_a_format_that_cannot_be_is_an_error(tmp_path, fields, match):
    path = tmp_path / "train.jsonl"
    path.write_text('{"txt": "a"}')
    with pytest.raises(DataError, match=match):
        list(sources.read_source(Source(path=str(path), **fields)))
    assert texts(path, columns={"text": "txt"}) == [(1, "a")]


# Whether they changed.


def test_the_fingerprint_is_of_the_bytes_and_the_stamp_of_the_file(tmp_path):
    path = tmp_path / "train.jsonl"
    source = Source(path=write(path))
    before, stamps = sources.fingerprint_of(source), sources.stamps(sources.files_of(source))
    assert sources.stamps([str(path)]) == stamps and list(stamps) == [str(path)]
    os.utime(path, (1, 1))
    assert sources.fingerprint_of(source) == before
    assert sources.stamps([str(path)]) != stamps
    path.write_bytes(LINES + b"\n")
    assert sources.fingerprint_of(source) != before
    path.unlink()
    assert "No such file" in sources.stamps([str(path)])[str(path)]
    with pytest.raises(DataError, match="train.jsonl: no such file"):
        sources.fingerprint_of(source)


# Other places.


@pytest.fixture
def bucket():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "json.gz", "parquet"])
def test_a_url_is_read_like_a_file(tmp_path, bucket, kind):
    content = Path(write(tmp_path / f"train.{kind}")).read_bytes()
    for name in ("b", "a"):
        bucket.pipe(f"/bucket/{name}.{kind}", content)
    source = Source(path=f"memory://bucket/*.{kind}")
    files = [f"memory:///bucket/{name}.{kind}" for name in "ab"]
    assert sources.files_of(source) == files
    both = [(file, n, text) for file in files for n, text in enumerate(TEXTS, start=1)]
    assert [(r.file, r.row, r.text) for r in sources.read_source(source)] == both
    local = sources.fingerprint_of(Source(path=str(tmp_path / f"train.{kind}")))
    assert sources.fingerprint_of(source) == local * 2
    stamps = sources.stamps(files)
    bucket.pipe(f"/bucket/a.{kind}", content + b"x")
    assert [file for file in files if sources.stamps(files)[file] != stamps[file]] == files[:1]


def test_a_url_without_data_is_an_error(bucket):
    bucket.pipe("/bucket/train.array_record", b"")
    for url, match in (
        ("memory://bucket/absent.jsonl", "absent.jsonl: no such file; give a file or a pattern"),
        ("memory://bucket", r"memory://bucket: no such file; .* such as memory://bucket/\*.jsonl"),
        ("memory://bucket/*.array_record", "train.array_record: ArrayRecord is read from a local"),
        ("ftpp://bucket/a.jsonl", "ftpp://bucket/a.jsonl: can't be read: Protocol not known: ftpp"),
    ):
        with pytest.raises(DataError, match=match):
            sources.files_of(Source(path=url))


class Forbidden(fsspec.AbstractFileSystem):
    """A store of objects that lets nobody in."""

    def isfile(self, path):
        if path.startswith("hidden"):
            raise PermissionError(f"403 for {path}")
        return True

    def open(self, path, mode="rb", **options):
        raise KeyError(f"403 for {path}")

    def ukey(self, path):
        raise PermissionError(f"403 for {path}")


def test_what_a_store_of_objects_refuses_is_told():
    fsspec.register_implementation("forbidden", Forbidden, clobber=True)
    with pytest.raises(DataError, match="forbidden://hidden/a.jsonl: can't be looked up: 403 for"):
        sources.files_of(Source(path="forbidden://hidden/a.jsonl"))
    source = Source(path="forbidden://a.jsonl")
    with pytest.raises(DataError, match="a.jsonl:1: can't be read .KeyError: '403 for a.jsonl"):
        list(sources.read_source(source))
    with pytest.raises(DataError, match="forbidden://a.jsonl: can't be read: '403 for a.jsonl"):
        sources.fingerprint_of(source)
    assert "403 for a.jsonl" in str(sources.stamps(sources.files_of(source)))


def test_what_the_system_refuses_is_no_doubt_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("{}")

    def refused(file):
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setattr(sources, "_open", refused)
    with pytest.raises(
        DataError, match=r"a.jsonl:1: can't be read .PermissionError: .*denied"
    ) as e:
        list(sources.read_rows(Source(path=str(tmp_path / "a.jsonl"))))
    assert "whole" not in str(e.value)


def test_what_a_bucket_of_google_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(DataError, match="gs://b/a.jsonl: can't be read: .*install gcsfs"):
        sources.files_of(Source(path="gs://b/a.jsonl"))


def test_what_a_data_set_of_the_hub_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = Source(path="hub://owner/name", subset="main")
    with pytest.raises(DataError, match=r"hub://owner/name/main/train: .* 'jaxsft\[hub\]'"):
        list(sources.read_source(source))


def test_a_data_set_of_the_hub_is_read_by_subset_and_split(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    folder.mkdir()
    calls = [{"tool_calls": [{"name": "f", "arguments": {key: 1}}]} for key in "ab"]
    rows = [{"messages": [{"role": "assistant", "content": None, **call}]} for call in calls]
    for split, part in (("train", rows), ("test", rows[1:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    source = Source(path=f"hub://{folder}", subset="default")
    assert sources.files_of(source) == [f"hub://{folder}/default/train"]
    records = list(sources.read_source(source))
    arguments = [r.messages[0].tool_calls[0]["function"]["arguments"] for r in records]
    assert arguments == [{"a": 1}, {"b": 1}]
    assert [(r.file, r.row) for r in records] == [
        (hub.name_of(source), 1),
        (hub.name_of(source), 2),
    ]
    test = Source(path=f"hub://{folder}", split="test")
    assert len(list(sources.read_source(test))) == 1
    assert sources.fingerprint_of(test) != sources.fingerprint_of(source)
    part = Source(path=f"hub://{folder}", split="test[:1]")  # lies in the same file
    assert sources.fingerprint_of(part) != sources.fingerprint_of(test)
    assert len(sources.stamps(sources.files_of(test))) == 1
    with pytest.raises(DataError, match="set/nosuch: can't be loaded: Unknown split"):
        list(sources.read_rows(Source(path=f"hub://{folder}", split="nosuch")))
