"""Files that others made: read with limits, and told apart from what often stands in for them."""

import functools
import json
import re
from pathlib import Path
from typing import Any

from jaxsft.errors import ConversionError
from jaxsft.files import sentencepiece_types

MAX_JSON_BYTES = 64 * 2**20  # an index of a 1T-parameter model takes about 10 MB
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


def refuse_impostor(path: Path) -> None:
    """Refuses a file that is there by name only.

    Raises:
        ConversionError: no such file, an empty one, a Git LFS pointer or an HTML page.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise ConversionError(f"{path}: is empty (0 bytes); download it again")
    if head.startswith(b"version https://git-lfs.github.com/spec"):
        raise ConversionError(
            f"{path}: is a Git LFS pointer, not the file; run `git lfs pull` in its repository"
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ConversionError(
            f"{path}: is an HTML page, probably an error saved under this name; download it again"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ConversionError: not JSON, too large, nested too deeply, a name given twice, not an object.
    """
    refuse_impostor(path)
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ConversionError(f"{path}: is {size} bytes, expected at most {MAX_JSON_BYTES}")
    return parse_json(path.read_bytes(), str(path))


def refuse_cut_json(path: Path) -> None:
    """Refuses a JSON file of a tokenizer that was cut or overwritten.

    Raises:
        ConversionError: no JSON; the place in the file where it breaks off.
    """
    status = path.stat()
    _parse_once(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _parse_once(path: Path, size: int, changed: int) -> None:
    del changed  # another file then
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConversionError(
            f"{path}: is no whole JSON file ({size} bytes): {error}; download it again"
        ) from None


def refuse_cut_model(path: Path) -> None:
    """Refuses a tokenizer.model that was cut or overwritten: transformers takes it for tiktoken's.

    Raises:
        ConversionError: neither a sentencepiece model nor the lines that tiktoken has.
    """
    model = path.read_bytes()
    if not _TIKTOKEN.match(model) and not sentencepiece_types.is_whole(model):
        raise ConversionError(
            f"{path}: is no whole sentencepiece model ({len(model)} bytes); download it again"
        )


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ConversionError(f"{where}: is nested too deeply") from None
    except ValueError as error:
        raise ConversionError(f"{where}: is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConversionError(f"{where}: holds a {type(value).__name__}, expected an object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return result
