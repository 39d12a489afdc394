"""The text of a message, from a string or from parts that may each have a weight."""

from typing import Any

from jaxsft.data.conversation import PartWeights, RowError
from jaxsft.data.read.strict_json import clip
from jaxsft.data.read.weights import weight_of

_TEXT_TYPES = ("text", "input_text", "output_text")  # the last two are of OpenAI's Responses
_TEXT_KEYS = ("text", "value", "content")
# Columns that a row or a message has beside its text where it is about more than text.
MEDIA = frozenset(
    f"{kind}{ending}"
    for kind in ("image", "img", "picture", "photo", "video", "audio")
    for ending in ("", "s", "_path", "_paths", "_url", "_urls", "_file", "_files", "_bytes")
) | {"pixel_values", "image_data", "input_features", "videos_path", "attachments"}
_OF_MESSAGE = MEDIA | {"files"}  # of a row, they are as often the names of what it was made from


def content_of(value: Any, has_calls: bool, where: str) -> tuple[str, PartWeights]:
    """The text, and the weights of its parts if any of them has one.

    [{"type": "text", "text": "ab", "train": false}, {"type": "text", "text": "c"}]
    is "abc" and ((2, 0.0), (3, None)).

    Raises:
        RowError: something is not text, or a weight is none.
    """
    parts: list[tuple[int, float | None]] = []
    if isinstance(value, list):
        texts, size = [], 0
        for index, part in enumerate(value):
            text, weight = _part(part, f"{where}.content[{index}]")
            texts.append(text)
            size += len(text)
            parts.append((size, weight))
        value = "".join(texts) if value else None
    if value is None and has_calls:
        return "", ()
    if not isinstance(value, str):
        raise RowError(
            "content not a string",
            f"{where} has content {clip(value)}; expected a string or a list of text parts",
        )
    return value, tuple(parts) if any(weight is not None for _, weight in parts) else ()


def _part(part: Any, where: str) -> tuple[str, float | None]:
    if not isinstance(part, dict):
        expected = 'expected {"type": "text", "text": ...}'
        raise RowError("content not a string", f"{where} is {clip(part)}; {expected}")
    refuse_media(part, where)
    said = [key for key in _TEXT_KEYS if part.get(key) is not None]
    kind = part.get("type")
    if kind not in _TEXT_TYPES or len(said) != 1 or not isinstance(part[said[0]], str):
        detail = f"{where} has type {clip(kind)}"
        detail += "".join(f" and {key} {clip(part[key])}" for key in said)
        detail += f" (its keys are {clip(sorted(part))}); only text can be trained on"
        raise RowError("content part not text", f'{detail}: {{"type": "text", "text": ...}}')
    return part[said[0]], weight_of(part, where)


def has_media(value: Any) -> bool:
    """Whether a value of such a name holds any: not what is empty, and not how many there are."""
    return not isinstance(value, bool | int | float) and not holds_nothing(value)


def holds_nothing(value: Any) -> bool:
    """Whether nothing is in it, however deep: a table gives every row the shape of all others."""
    if isinstance(value, dict):
        return all(map(holds_nothing, value.values()))
    if isinstance(value, list):
        return all(map(holds_nothing, value))
    return value is None or (isinstance(value, str | bytes) and not value)


def is_media(value: Any) -> bool:
    """Whether it is an image or sound as the package `datasets` has them, or a list of such."""
    if isinstance(value, list):
        return bool(value) and all(map(is_media, value))
    if not isinstance(value, dict) or holds_nothing(value):
        return False
    return value.keys() == {"bytes", "path"} or value.keys() >= {"array", "sampling_rate"}


def refuse_media(holder: dict[str, Any], where: str) -> None:
    """Returns where the message has nothing but text.

    Raises:
        RowError: it has images, sound or files beside its text.
    """
    for key in _OF_MESSAGE.intersection(holder):
        if has_media(holder[key]):
            detail = f"{where} has {key} {clip(holder[key])}; only text can be trained on"
            raise RowError("media beside the text", detail)
