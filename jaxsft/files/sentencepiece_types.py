"""The types of the pieces of a tokenizer.model: the sentencepiece library tells some only."""

from collections.abc import Iterator

NORMAL = 1  # where a piece has no type
_PIECES, _TYPE = 1, 3  # fields of ModelProto and of its SentencePiece


def is_whole(model: bytes) -> bool:
    """Whether the bytes are a model with pieces, and not a part of one or something else."""
    try:
        fields = list(_fields(model))
    except (IndexError, KeyError):
        return False
    return any(field == _PIECES for field, _ in fields)


def read(model: bytes) -> list[int]:
    """1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; a number for each piece.

    Source: sentencepiece_model.proto; the encoding of protocol buffers.
    """
    pieces = (value for field, value in _fields(model) if field == _PIECES)
    return [
        next((v for f, v in _fields(piece) if f == _TYPE and isinstance(v, int)), NORMAL)
        for piece in pieces
        if isinstance(piece, bytes)
    ]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields; those of fixed length as their bytes.

    Raises:
        IndexError, KeyError: it breaks off, or is no such message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
                yield key >> 3, value
                continue
            case 2:
                length, at = _varint(message, at)
            case kind:
                length = {1: 8, 5: 4}[kind]  # no other is in use
        if at + length > len(message):
            raise IndexError(at)
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
