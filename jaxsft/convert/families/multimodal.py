"""Checkpoints of which one part is a text model of a known family: which ones, and where their
config.json and files have it. No jax here.

The text model's fields are the text_config of config.json; its tensors have a prefix.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jaxsft.convert.families import tensor_table
from jaxsft.convert.families.registry import FAMILIES
from jaxsft.errors import ConversionError


@dataclasses.dataclass(frozen=True)
class TextPlace:
    """Where a file has what a text model alone calls model.* and lm_head.*."""

    body: str
    head: str


@dataclasses.dataclass(frozen=True)
class Wrapper:
    hf_class: str  # as config.json's architectures names it
    text: str  # model_type of a text_config that has none
    tied: bool  # of transformers, where config.json has no tie_word_embeddings
    layouts: tuple[TextPlace, ...]
    text_ties: bool = False  # tie_word_embeddings=true of text_config counts too
    unused: frozenset[str] = frozenset()  # fields of the text family that it has not


# As published and as transformers saves them; the last: as modules of transformers are called.
_LLAVA = (
    TextPlace("language_model.model.", "language_model.lm_head."),
    TextPlace("model.language_model.", "lm_head."),
)
_IDEFICS = (TextPlace("model.text_model.", "lm_head."),)
WRAPPERS = {
    "gemma3": Wrapper(
        "Gemma3ForConditionalGeneration",
        *("gemma3_text", True, _LLAVA),
        unused=frozenset({"final_logit_softcapping"}),
    ),
    "mistral3": Wrapper("Mistral3ForConditionalGeneration", "mistral", True, _LLAVA),
    "llava": Wrapper("LlavaForConditionalGeneration", "llama", False, _LLAVA, text_ties=True),
    "llava_next": Wrapper("LlavaNextForConditionalGeneration", "llama", False, _LLAVA),
    "llava_next_video": Wrapper(
        *("LlavaNextVideoForConditionalGeneration", "llama", False, _LLAVA), text_ties=True
    ),
    "llava_onevision": Wrapper(
        *("LlavaOnevisionForConditionalGeneration", "qwen2", False, _LLAVA), text_ties=True
    ),
    "vipllava": Wrapper("VipLlavaForConditionalGeneration", "llama", False, _LLAVA),
    "video_llava": Wrapper("VideoLlavaForConditionalGeneration", "llama", False, _LLAVA),
    "got_ocr2": Wrapper("GotOcr2ForConditionalGeneration", "qwen2", True, _LLAVA),
    "deepseek_vl": Wrapper("DeepseekVLForConditionalGeneration", "llama", True, _LLAVA),
    "lighton_ocr": Wrapper("LightOnOcrForConditionalGeneration", "qwen3", True, _LLAVA),
    "internvl": Wrapper("InternVLForConditionalGeneration", "qwen2", True, _LLAVA),
    "idefics2": Wrapper("Idefics2ForConditionalGeneration", "mistral", False, _IDEFICS),
    "idefics3": Wrapper("Idefics3ForConditionalGeneration", "llama", False, _IDEFICS),
    "smolvlm": Wrapper("SmolVLMForConditionalGeneration", "llama", False, _IDEFICS),
}


def wrapper(config: Mapping[str, Any]) -> Wrapper | None:
    """What kind of multimodal model a config.json describes; None: none that is known."""
    name = config.get("model_type")
    return WRAPPERS.get(name) if isinstance(name, str) else None


def text_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config.json that the text part would have alone; of a text model, its own.

    Raises:
        ConversionError: a text_config that is no object.
    """
    kind = wrapper(config)
    if kind is None:
        return dict(config)
    found = config.get("text_config")
    if not isinstance(found, dict):
        raise ConversionError(
            f"{where}: text_config={found!r}: model_type={config['model_type']!r} needs an object"
        )
    text = {"model_type": kind.text} | found
    family = FAMILIES.get(str(text["model_type"]))
    text = {**(family.text_sizes if family is not None else {}), **text}
    text["tie_word_embeddings"] = _ties(kind, config, text)
    return {name: text[name] for name in text if name not in {"architectures", *kind.unused}}


def _ties(kind: Wrapper, config: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    name = "tie_word_embeddings"
    return bool(config.get(name, kind.tied)) or (kind.text_ties and bool(text.get(name)))


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the same model, of text alone too, with a head of its own."""
    no, text = {"tie_word_embeddings": False}, config.get("text_config")
    return {**config, **no, **({"text_config": {**text, **no}} if isinstance(text, dict) else {})}


def unused(config: Mapping[str, Any], where: str) -> list[str]:
    """A line for each field of a text_config that is left out of it here."""
    kind, found = wrapper(config), config.get("text_config")
    names = kind.unused if kind is not None and isinstance(found, dict) else frozenset()
    there = [name for name in sorted(names) if (found or {}).get(name) is not None]
    end = "has no effect in this model, as in transformers"
    return [f"{where}: text_config: {name}={(found or {})[name]!r} {end}" for name in there]


def with_vocab_size(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The config.json of the model with another number of rows in its embedding."""
    if wrapper(config) is None:
        return {**config, "vocab_size": rows}
    return {**config, "text_config": {**config["text_config"], "vocab_size": rows}}


def table(config: Mapping[str, Any], plain: tensor_table.Table) -> tensor_table.Table:
    """The text family's table with the names that modules of transformers have, as adapters do.

    Args:
        plain: the family's own.
    """
    kind = wrapper(config)
    if kind is None:
        return plain
    layout = kind.layouts[-1]
    return tuple(dataclasses.replace(row, theirs=_inside(row.theirs, layout)) for row in plain)


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names of the text part's tensors: of its modules, and in a file."""

    modules: TextPlace
    file: TextPlace

    def in_file(self, name: str) -> str:
        """The file's name of a tensor that a module has."""
        return _moved(name, self.modules, self.file)

    def in_modules(self, name: str) -> str | None:
        """The module's name of a tensor of a file; None: it is of another part."""
        if not name.startswith((self.file.body, self.file.head)):
            return None
        return _moved(name, self.file, self.modules)


def naming(kind: Wrapper, names: Iterable[str]) -> Naming:
    """How a file with these tensors calls them; one without a text part: as published."""
    there = set(names)
    bodies = (layout for layout in kind.layouts if f"{layout.body}norm.weight" in there)
    layout = next(bodies, kind.layouts[0])
    heads = (other.head for other in kind.layouts if f"{other.head}weight" in there)
    return Naming(kind.layouts[-1], TextPlace(layout.body, next(heads, layout.head)))


def _moved(name: str, start: TextPlace, end: TextPlace) -> str:
    for old, new in ((start.body, end.body), (start.head, end.head)):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _inside(theirs: str, layout: TextPlace) -> str:
    first, _, rest = theirs.partition(".")
    return {"model": layout.body, "lm_head": layout.head}[first] + rest
