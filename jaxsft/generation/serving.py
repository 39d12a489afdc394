"""How a source's conversations are rendered and where its answers end, as in its training."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsft.config import Data
from jaxsft.config.values import from_dict
from jaxsft.convert import pretrained
from jaxsft.data.conversation import Conversation, RowError
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.read.messages import parse_message
from jaxsft.errors import ConfigError, DataError
from jaxsft.files import run_names

_TRIAL = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


@dataclasses.dataclass(frozen=True)
class AsTrained:
    """What a run's data said of its template."""

    template_options: Mapping[str, Any]
    trusted_control_tokens: tuple[str, ...]
    date: str | None  # that the template writes; None: today's


def as_trained(source: str | Path) -> AsTrained:
    """Of a run's directory or the export in it; of any other source, what a template does alone."""
    path = Path(source).expanduser()
    for directory in (path, path.parent):
        data = _data_of_run(directory / run_names.CONFIG)
        if data is not None and (directory == path or path.name == run_names.EXPORT):
            return AsTrained(data.template_options, data.trusted_control_tokens, data.template_date)
    return AsTrained({}, (), None)


def _data_of_run(file: Path) -> Data | None:
    """None: it is no run's config.json, or one of another version."""
    try:
        value = json.loads(file.read_bytes())
        return from_dict(value).data if isinstance(value.get("model"), dict) else None
    except (OSError, ValueError, AttributeError, ConfigError):
        return None


def stop_ids(source: str | Path, tokenizer: ChatTokenizer) -> frozenset[int]:
    """The tokens after which an answer is over: what the template writes behind one, what the
    tokenizer ends texts with, and what the model's generation_config.json names."""
    found = {tokenizer.eos_id} | set(_ends_of_turns(tokenizer))
    named = pretrained.open_pretrained(source, weights=False).generation_config.get("eos_token_id")
    found |= set(named) if isinstance(named, list) else {named}
    return frozenset(one for one in found if isinstance(one, int))


def _ends_of_turns(tokenizer: ChatTokenizer) -> frozenset[int]:
    messages = tuple(parse_message(one) for one in _TRIAL)
    if not tokenizer.has_template:
        return frozenset()
    try:
        (example, *_) = tokenizer.encode(Conversation(messages, None, "trial", 1))
    except (RowError, DataError):  # its conversations are of another form
        return frozenset()
    return example.end_of_turn_ids
