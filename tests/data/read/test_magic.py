"""A file that is not what its name says is told by its first bytes, once, with what to do."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pyarrow
import pytest

from jaxsft.config import Source
from jaxsft.data.conversation import BadRow, Conversation
from jaxsft.data.read.sources import read_source
from jaxsft.errors import DataError


def gzipped(data: bytes) -> bytes:
    """Without the time, by which two processes would collect tests of two names."""
    return gzip.compress(data, mtime=0)


LINE = json.dumps({"messages": [{"role": "assistant", "content": "ho"}]}).encode() + b"\n"


def zipped():
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.jsonl"), LINE)  # of 1980, not of now
    return file.getvalue()


def tarred():
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        (info := tarfile.TarInfo("a.jsonl")).size = len(LINE)
        archive.addfile(info, io.BytesIO(LINE))
    return file.getvalue()


ZSTD = pyarrow.compress(LINE, "zstd", asbytes=True)
TEXT = LINE.decode()


@pytest.mark.parametrize(
    "name, data, match",
    [
        (
            "d.jsonl",
            gzipped(LINE),
            r"is compressed by gzip: let its name end in .jsonl.gz, or",
        ),
        ("d.json", ZSTD, r"is compressed by zstd: let its name end in .json.zst"),
        ("d.jsonl.gz", gzipped(gzipped(LINE)), "is compressed twice by gzip: decom"),
        ("d.jsonl.gz", gzipped(ZSTD), "is zstd inside its gzip, not text: decompress it"),
        ("d.jsonl.gz", ZSTD, "is zstd, not gzip as its name says"),
        ("d.jsonl.zst", LINE, """begins with b'{"messag', not zstd as its name says"""),
        ("d.jsonl", bz2.compress(LINE), r"is bzip2, not text: decompress it \(bunzip2\)"),
        ("d.jsonl", lzma.compress(LINE), r"is xz, not text: decompress it \(unxz\)"),
        ("d.jsonl", zipped(), r"is a zip archive, not text: decompress it \(unzip\)"),
        ("d.jsonl", tarred(), "is a tar archive, not .jsonl of JSON text"),
        ("d.jsonl", TEXT.encode("utf-16"), "is UTF-16: convert it, as by iconv -f UTF-16 -t UTF-8"),
        ("d.jsonl", TEXT.encode("utf-16-le"), "is UTF-16LE: convert it, as by iconv -f UTF-16LE"),
        ("d.jsonl", TEXT.encode("utf-16-be"), "is UTF-16BE: convert"),
        ("d.jsonl", '{"é": 1}'.encode("utf-16-be"), "is UTF-16BE: convert"),
        ("d.jsonl", TEXT.encode("utf-32-be"), "is UTF-32BE: convert"),
        (
            "d.jsonl",
            b"<!DOCTYPE html>\n<p>404\n",
            "is HTML, as of a page .* in its place, not .jsonl",
        ),
        ("d.json", TEXT.encode("utf-32"), "is UTF-32: convert"),
        ("d.jsonl.gz", gzipped(TEXT.encode("utf-16")), "is UTF-16 inside its gzip: convert"),
        ("d.jsonl", b"PAR1" + b"\0" * 20, "is Parquet, not .jsonl of JSON text"),
        (
            "d.jsonl",
            b"version https://git-lfs.github.com/spec/v1\n",
            "of Git LFS.*run git lfs pull",
        ),
        ("d.jsonl", b"\0" * 4096, "is zeros, as of a file that was never written"),
        ("d.parquet", gzipped(LINE), "is gzip, not Parquet as its name says"),
    ],
)
def test_the_file_is_said_to_be_what_it_is(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"^{tmp_path}/{name}:1: .*{match}"):
        list(read_source(Source(path=str(tmp_path / name))))


@pytest.mark.parametrize("data", [LINE, b"\n" + LINE, LINE.replace(b"\n", b"\r\n") * 2])
def test_text_is_text(tmp_path, data):
    for name, content in (("d.jsonl", data), ("d.jsonl.gz", gzipped(data))):
        (tmp_path / name).write_bytes(content)
        rows = list(read_source(Source(path=str(tmp_path / name))))
        assert rows and all(isinstance(row, Conversation) for row in rows)


def test_a_byte_order_mark_of_utf_8_is_the_first_rows(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + LINE * 2)
    first, second = read_source(Source(path=str(tmp_path / "d.jsonl")))
    assert isinstance(first, BadRow) and "byte order mark" in first.detail
    assert isinstance(second, Conversation)


def test_a_lack_of_memory_is_no_broken_file(tmp_path, monkeypatch):
    from jaxsft.data.read import file_rows

    def full(file):
        raise MemoryError

    monkeypatch.setitem(file_rows._READERS, ".jsonl", full)
    (tmp_path / "d.jsonl").write_bytes(LINE)
    with pytest.raises(MemoryError):
        list(read_source(Source(path=str(tmp_path / "d.jsonl"), format="messages")))
