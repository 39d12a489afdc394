"""The rows of one file, streamed: memory holds a line, an object or a batch of them."""

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from jaxsft.data.conversation import RowError
from jaxsft.data.read import magic, strict_json
from jaxsft.errors import DataError

NumberedRow = tuple[int, bytes | dict[str, Any] | None]  # number from 1, and data as RawRow has it

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_READ_BYTES = 2**20
_BATCH_ROWS = 256
_SPACE = re.compile(r"[ \t\r\n]*")
ARRAY_RECORD, _PARQUET = ".array_record", ".parquet"


def suffix_and_compression(path: str) -> tuple[str, str | None]:
    """The suffix that says how a file is read, and its compression.

    Raises:
        DataError: files of this suffix can't be read.
    """
    name = PurePosixPath(without_query(path))
    compression = _COMPRESSIONS.get(name.suffix.lower())
    suffix = (name.with_suffix("") if compression else name).suffix.lower()
    if suffix not in _READERS or (compression and _READERS[suffix] not in (_lines, _json)):
        kinds = f"{', '.join(_READERS)}; or .jsonl and .json followed by .gz or .zst"
        raise DataError(f"{path}: unknown kind of file; expected {kinds}")
    return suffix, compression


def without_query(path: str) -> str:
    """The path; of a URL without what a signed one has behind its ?."""
    return path.partition("?")[0].partition("#")[0] if "://" in path else path


def rows_of(path: str, open_file: Callable[[], BinaryIO]) -> Iterator[NumberedRow]:
    """Every row of the file that isn't a blank line.

    Raises:
        DataError: the file as a whole is broken: cut short, corrupt, or not what its suffix says.
    """
    suffix, compression = suffix_and_compression(path)
    row = 0
    try:
        is_stream = suffix != ARRAY_RECORD
        rows = _stream(open_file, suffix, compression) if is_stream else _array_record(path)
        for row, data in rows:
            yield row, data
    except DataError as error:
        raise DataError(f"{path}:{row + 1}: {error}") from None
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:  # pyarrow and stores of objects have kinds of their own
        said = f"{type(error).__name__}: {str(error).strip()}"
        # An error of the system, which has a number, says nothing of the file.
        is_systems = isinstance(error, OSError) and error.errno is not None
        doubt = "" if is_systems else "; is the file whole?"
        raise DataError(f"{path}:{row + 1}: can't be read ({said}){doubt}") from None


def _stream(
    open_file: Callable[[], BinaryIO], suffix: str, compression: str | None
) -> Iterator[NumberedRow]:
    with open_file() as raw, _decompressed(raw, compression) as file:
        if wrong := _complaint(file, suffix, compression):
            raise DataError(wrong)
        yield from _READERS[suffix](file)


def _complaint(file: io.BufferedReader, suffix: str, compression: str | None) -> str | None:
    head = file.peek(magic.HEAD_BYTES)[: magic.HEAD_BYTES]
    if suffix != _PARQUET:
        return magic.complaint(head, suffix, compression)
    kind = magic.recognised(head)
    return f"is {kind}, not Parquet as its name says" if kind not in (None, "Parquet") else None


def _decompressed(file: BinaryIO, compression: str | None) -> io.BufferedReader:
    stream = io.BufferedReader(cast(Any, file), _READ_BYTES)
    if compression is None:
        return stream
    if wrong := magic.not_compressed(stream.peek(4), compression):
        raise DataError(wrong)
    import pyarrow  # notices a stream cut short, for gzip and zstd alike

    unpacked = pyarrow.CompressedInputStream(stream, compression)
    return io.BufferedReader(cast(Any, unpacked), _READ_BYTES)


def _lines(file: io.BufferedReader) -> Iterator[NumberedRow]:
    limit = strict_json.MAX_LINE_BYTES
    row = 0
    while line := file.readline(limit + 1):
        row += 1
        if len(line) > limit:
            while line and not line.endswith(b"\n"):
                line = file.readline(_READ_BYTES)
            yield row, None
        elif line := line.rstrip():
            yield row, line


def _json(file: io.BufferedReader) -> Iterator[NumberedRow]:
    """An array of objects; or one object on each line, as some name their JSON Lines."""
    if file.peek(64).lstrip()[:1] == b"[":
        yield from _array(file)
        return
    for place, (row, line) in enumerate(_lines(file)):
        if place == 0 and isinstance(line, bytes):
            _check_is_lines(line)
        yield row, line


def _check_is_lines(line: bytes) -> None:
    try:
        strict_json.parse_object(line)
    except RowError as error:
        if error.kind in ("not JSON", "byte order mark"):
            wanted = "expected an array of objects, or one whole object on each line"
            raise DataError(f"the first line {error}; {wanted}") from None


def _array(file: io.BufferedReader) -> Iterator[NumberedRow]:
    """The text of each element; parsing it strictly is left to whoever takes the row."""
    text = _Text(file)
    text.take("[")
    if text.peek() == "]":
        return
    row = 0
    while True:
        row += 1
        yield row, text.value().encode()
        if text.peek() == "]":
            break
        text.take(",")
    text.take("]")
    if text.peek():
        raise DataError(f"has {text.peek()!r} after the end of the array")


class _Text:
    """JSON text that is read as far as it is needed."""

    def __init__(self, file: io.BufferedReader):
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._at = "", 0

    def peek(self) -> str:
        """The next character that isn't white space; "" at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def take(self, char: str) -> None:
        if self.peek() != char:
            found = repr(self.peek()) if self.peek() else "the end of the file"
            raise DataError(f"is not a JSON array: expected {char!r}, found {found}")
        self._at += 1

    def value(self) -> str:
        """The text of the value that begins here."""
        self.peek()
        while True:
            problem: ValueError | None = None
            try:
                _, stop = _FINDER.raw_decode(self._text, self._at)
            except ValueError as error:  # perhaps because it goes on in what is not read yet
                problem, stop = error, len(self._text)
            except RecursionError:
                raise DataError("is nested too deep to read") from None
            if stop < len(self._text):
                start, self._at = self._at, stop
                return self._text[start:stop]
            if len(self._text) - self._at > strict_json.MAX_LINE_BYTES:
                raise strict_json.too_long()
            if not self._grow():
                raise DataError(f"is not JSON: {problem or 'the array does not end'}")

    def _grow(self) -> bool:
        """Reads as much again as is held, so that a long value is not scanned over and over."""
        data = self._file.read(max(_READ_BYTES, len(self._text) - self._at))
        self._text = self._text[self._at :] + self._decode(data, final=not data)
        self._at = 0
        return bool(data)


def _parquet(file: io.BufferedReader) -> Iterator[NumberedRow]:
    import pyarrow.parquet

    row = 0
    with pyarrow.parquet.ParquetFile(file) as table:
        names = table.schema_arrow.names
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise DataError(f"has more than one column {twice[0]!r}; keep one")
        for batch in table.iter_batches(_BATCH_ROWS):
            for values in zip(*map(_objects, batch.columns), strict=True):
                row += 1
                yield row, dict(zip(names, values, strict=True))


def _objects(column: Any) -> list[Any]:
    """The values; one that Python can't hold is no reason to lose the row, or the file.

    Such are nanoseconds, years beyond 9999 and two equal keys of a map.
    """
    try:
        return column.to_pylist(maps_as_pydicts="strict")
    except MemoryError:
        raise
    except Exception:  # of many types; each value says its own
        return [_object(scalar) for scalar in column]


def _object(scalar: Any) -> Any:
    try:
        return scalar.as_py(maps_as_pydicts="strict")
    except MemoryError:
        raise
    except Exception as error:
        return strict_json.Unreadable(f"{scalar.type}: {str(error).strip()}")


def _array_record(path: str) -> Iterator[NumberedRow]:
    from array_record.python import array_record_module  # type: ignore  # has no stubs

    reader = array_record_module.ArrayRecordReader(path)
    if not reader.ok():
        raise DataError("is not a whole ArrayRecord file; was it cut short?")
    for start in range(0, reader.num_records(), _BATCH_ROWS):
        stop = min(start + _BATCH_ROWS, reader.num_records())
        yield from enumerate(reader.read(start, stop), start=start + 1)
    reader.close()


_FINDER = json.JSONDecoder(parse_int=len, parse_float=len)  # only where a value ends is asked
_READERS: dict[str, Any] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    _PARQUET: _parquet,
    ARRAY_RECORD: _array_record,
}
