"""What the first bytes of a file say that it is, where that is not what its name says."""

# Source: the formats' own specifications; lengths as far as they tell them apart.
_STARTS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow IPC (Feather)",
    b"\xff\xff\xff\xff": "an Arrow IPC stream",
    b"Obj\x01": "Avro",
    b"ORC": "ORC",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89HDF": "HDF5",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"%PDF": "PDF",
    b"<!DOCTYPE": "HTML, as of a page that was served in its place",
    b"<!doctype": "HTML, as of a page that was served in its place",
    b"<html": "HTML, as of a page that was served in its place",
    b"<?xml": "XML, as of an error that was served in its place",
    b"version https://git-lfs": "a pointer of Git LFS, not the data",
    b"\0\0\0\0": "zeros, as of a file that was never written",
}
# Which of the first four bytes aren't 0. Source: RFC 4627, 3: JSON begins with two of ASCII.
_UTF_WITHOUT_MARK = {
    b"\1\0\1\0": "UTF-16LE",
    b"\0\1\0\1": "UTF-16BE",
    b"\1\0\0\0": "UTF-32LE",
    b"\0\0\0\1": "UTF-32BE",
}
_ENDINGS = {"gzip": ".gz", "zstd": ".zst"}
_UNPACK = {"bzip2": "bunzip2", "xz": "unxz", "lz4": "unlz4", "a zip archive": "unzip"}
_TAR = 257, b"ustar"
HEAD_BYTES = 512


def recognised(head: bytes) -> str | None:
    """What a file that begins so is, if it is known and no text in UTF-8."""
    # Longer marks first: UTF-32's begins with UTF-16's.
    for mark, kind in ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32")):
        if head.startswith(mark):
            return kind
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if head[_TAR[0] :].startswith(_TAR[1]):
        return "a tar archive"
    return _UTF_WITHOUT_MARK.get(bytes(byte > 0 for byte in head[:4]))


def complaint(head: bytes, suffix: str, compression: str | None) -> str | None:
    """What is wrong with a text file that begins so, decompressed, and what to do; None: nothing.

    Args:
        compression: that its name promised, and that was taken off.
    """
    kind = recognised(head)
    if kind is None:
        return None
    if compression is not None and kind == compression:
        return f"is compressed twice by {kind}: decompress it once"
    inside = f" inside its {compression}" if compression else ""
    if kind in _ENDINGS and not compression:
        name = f"{suffix}{_ENDINGS[kind]}"
        return f"is compressed by {kind}: let its name end in {name}, or decompress it"
    if kind in ("gzip", "zstd", *_UNPACK):
        command = f" ({_UNPACK[kind]})" if kind in _UNPACK else ""
        return f"is {kind}{inside}, not text: decompress it{command}"
    if kind.startswith("UTF"):
        return f"is {kind}{inside}: convert it, as by iconv -f {kind} -t UTF-8"
    if "Git LFS" in kind:
        return f"is {kind}: run git lfs pull"
    return f"is {kind}{inside}, not {suffix} of JSON text"


def not_compressed(head: bytes, compression: str) -> str | None:
    """What is wrong with a file whose name promises a compression; None: nothing."""
    kind = recognised(head)
    if kind == compression or not head:
        return None
    found = f"is {kind}" if kind else f"begins with {head[:8]!r}"
    return f"{found}, not {compression} as its name says: rename it"
