"""A trained model as a directory that transformers and vLLM read: complete, or not there at all."""

import dataclasses
import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxsft.convert import source
from jaxsft.convert.export import card, written_config
from jaxsft.convert.families import config_json, tensor_table
from jaxsft.convert.new_tokens import settle_padding
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.tensors import huggingface, safetensors_read, safetensors_write
from jaxsft.convert.vocabulary import chat_template, check_tokenizer
from jaxsft.devices import progress
from jaxsft.errors import ConversionError
from jaxsft.files import model_links, untrusted, whole_files
from jaxsft.model.state import Params

ExportDtype = Literal["source", "float32", "bfloat16", "float16"]
MARKER = source.EXPORT_MARKER
TOKENIZER_CONFIG = "tokenizer_config.json"
_WRITTEN = {"config.json", "generation_config.json", MARKER}
_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|gguf|ot|npz)(\.index\.json)?"
)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written; the names are known to the first process only."""

    directory: Path
    files: tuple[str, ...]
    left_out: tuple[str, ...]  # files of the base that are not in the export
    without_code: tuple[str, ...]  # files that named code, which is in no export
    num_zeroed: int  # values that were too small for the dtype of the export and are 0 there
    told: tuple[str, ...] = ()  # what else was found

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as in the base or as trained: show them."""
        notes = list(self.told)
        if self.left_out:
            names = ", ".join(self.left_out)
            notes.append(f"of the base's files these are not in the export: {names}")
        if self.without_code:
            names = ", ".join(self.without_code)
            notes.append(f"no code is exported, so its names (auto_map) are left out of {names}")
        if self.num_zeroed:
            notes.append(
                f"{self.num_zeroed:,} values are too small for the dtype of the export and became"
                " 0; bfloat16 and float32 would keep them"
            )
        return tuple(notes)


def export(
    params: Params,
    base: Pretrained,
    directory: Path | str,
    *,
    dtype: ExportDtype = "source",
    template: str | None = None,
    end_of_turn_ids: Sequence[int] = (),
    about: card.Card | None = None,
    tokenizer: Path | None = None,
    max_shard_bytes: int = safetensors_write.MAX_SHARD_BYTES,
) -> Exported:
    """Writes the model, reads it back, and only then gives it its name.

    Every process of a multi-host run takes part; the first one writes.

    Args:
        dtype: of the weights; "source": each as in the base (quantised ones: float32).
        template: the chat template trained with; None: the base's own.
        end_of_turn_ids: tokens that end a turn, put before the base's own eos ids.
        tokenizer: a tokenizer directory; None: the base's own.

    Raises:
        ConversionError: weights that can't be written or that read back differently; a directory
            that is no earlier export.
    """
    directory = Path(directory)
    refuse_foreign(directory)
    _refuse_ids(end_of_turn_ids, base)
    params = settle_padding(params, base.settings)
    partial = directory.with_name(f".{directory.name}.partial")
    first = jax.process_index() == 0
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dtypes = dtypes_of(params, base, dtype)
    in_file = str if base.naming is None else base.naming.in_file
    written = huggingface.write_params(
        params, base.table, partial, dtypes, max_shard_bytes, base.others, in_file
    )
    left_out, without_code = list[str](), list[str]()
    if first:
        left_out = _copy_files(base, tokenizer, partial)
        used = write_template(partial, template)
        without_code = written_config.drop_code(partial)
        without_code += ["config.json"] * written_config.names_code(base.config)
        main = main_dtype(params, base) if dtype == "source" else dtype
        _write_configs(partial, base, main, dtype == "source", end_of_turn_ids)
        text = card.render(about or card.Card(), base_name(base), license_of(base), used)
        whole_files.write_text(partial / "README.md", text)
        safetensors_write.write_json(partial / MARKER, {"tensors": written.digests})
        _verify(partial, base, written.digests)
        check_tokenizer.check_token_ids(tokenizer or _tokenizer_of(base), partial)
        publish(partial, directory)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"jaxsft export {directory.name}")
    files = sorted(path.name for path in directory.iterdir()) if first else []
    return Exported(
        directory, tuple(files), tuple(left_out), tuple(without_code), written.num_zeroed
    )


def dtypes_of(params: Params, base: Pretrained, dtype: str) -> Mapping[str, np.dtype]:
    """Of each tensor of the base, by its name; "source": that of its file."""
    names = [tensor.name for tensor in tensor_table.tensors(params, base.table)]
    if dtype != "source":
        return {name: huggingface.DTYPES[dtype] for name in names}
    if base.tensors is not None:
        return {name: base.tensors.dtype(name) for name in names}
    stored = base.config.get("dtype") or base.config.get("torch_dtype")
    same = huggingface.DTYPES.get(str(stored), huggingface.DTYPES["float32"])
    return {name: same for name in names}


def main_dtype(params: Params, base: Pretrained) -> str:
    """The dtype that most of the model's bytes have in its source."""
    dtypes = dtypes_of(params, base, "source")
    total: Counter[str] = Counter()
    for tensor in tensor_table.tensors(params, base.table):
        dtype = dtypes[tensor.name]
        total[str(dtype)] += dtype.itemsize * math.prod(tensor.their_shape)
    return max(total, key=lambda name: total[name])


def refuse_foreign(directory: Path) -> None:
    """Raises ConversionError where there are files that no export wrote."""
    if re.match(r"\w+:/", str(directory)):
        raise ConversionError(f"{directory}: export to a local directory, then copy it there")
    if directory.is_file() or (
        directory.is_dir() and any(directory.iterdir()) and not (directory / MARKER).is_file()
    ):
        raise ConversionError(
            f"{directory}: exists and was not written by an export (no {MARKER}); name another one"
        )


def _refuse_ids(end_of_turn_ids: Sequence[int], base: Pretrained) -> None:
    for token in end_of_turn_ids:
        if not 0 <= token < base.settings.vocab_size:
            raise ConversionError(
                f"end_of_turn_ids={list(end_of_turn_ids)}: {token} is not in [0,"
                f" {base.settings.vocab_size})"
            )


def _copy_files(base: Pretrained, tokenizer: Path | None, partial: Path) -> list[str]:
    """Copies byte for byte what is not made anew; returns the names of what is neither."""
    left_out = []
    if source.is_gguf(base.path):
        tokenizer = tokenizer or _tokenizer_of(base)
        found = [p for p in base.path.parent.iterdir() if p.name.startswith(("LICENSE", "NOTICE"))]
    else:
        found = [p for p in base.path.iterdir() if not p.name.startswith(".")]
        if tokenizer is not None:
            found = [p for p in found if not source.is_tokenizer_file(p)]
    found += [] if tokenizer is None else source.tokenizer_files(tokenizer)
    for path in sorted(found):
        if path.name in _WRITTEN or path.name.startswith("model") and _WEIGHTS.fullmatch(path.name):
            continue
        no_part = path.suffix == ".py" or _WEIGHTS.fullmatch(path.name)
        # The directory of a .gguf file may be anything; that of a model was looked at when opened.
        if no_part or not path.is_file() or model_links.leads_out(path, path.parent):
            left_out.append(path.name)
            continue
        name = path.name.replace("README.", "README.base.", 1)  # ours is about the trained model
        shutil.copyfile(path, partial / name)
    return left_out


def copy_tokenizer(base: Pretrained, tokenizer: Path | None, partial: Path) -> None:
    """Copies the files of a tokenizer byte for byte.

    Args:
        tokenizer: its directory; None: the base's own.
    """
    for path in source.tokenizer_files(tokenizer or _tokenizer_of(base)):
        shutil.copyfile(path, partial / path.name)


def _tokenizer_of(base: Pretrained) -> Path:
    return source.tokenizer_directory(base.path) if source.is_gguf(base.path) else base.path


def write_template(partial: Path, template: str | None) -> str | None:
    """Makes `template` the only default one, and returns the one that the export has.

    tokenizer_config.json is rewritten only where it holds another template.
    """
    path = partial / TOKENIZER_CONFIG
    config = untrusted.read_json(path) if path.is_file() else {}
    if template is None:
        return chat_template.used(partial, config)
    whole_files.write_text(partial / chat_template.FILE, template)
    changed = chat_template.without_other(config, template)
    if changed != config:
        safetensors_write.write_json(path, changed)
    return template


def _write_configs(
    partial: Path,
    base: Pretrained,
    dtype: str,
    as_source: bool,
    end_of_turn_ids: Sequence[int],
) -> None:
    ends = end_ids(base, end_of_turn_ids)
    config = written_config.model_config(base.config, dtype, as_source, ends)
    generation = written_config.without_code(base.generation_config)
    if not generation:
        ids = ("bos_token_id", "pad_token_id")
        generation = {name: config[name] for name in ids if config.get(name) is not None}
    if ends:
        generation["eos_token_id"] = ends
    safetensors_write.write_json(partial / "config.json", config)
    safetensors_write.write_json(partial / "generation_config.json", generation)


def end_ids(base: Pretrained, end_of_turn_ids: Sequence[int]) -> list[int]:
    """Where generation stops: the trained ends of a turn, then those that the base names."""
    _refuse_ids(end_of_turn_ids, base)
    text = base.config.get("text_config")  # of a multimodal model, which may say it there only
    said = (base.generation_config, base.config, text if isinstance(text, dict) else {})
    return list(dict.fromkeys([*end_of_turn_ids, *(i for config in said for i in _ids(config))]))


def _ids(config: dict[str, Any]) -> list[int]:
    value = config.get("eos_token_id")
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def base_name(base: Pretrained) -> str:
    """The hub id, or the name of the directory or file without the path to it."""
    return base.source if source.is_hub_id(base.source) else Path(base.source).name


def license_of(base: Pretrained) -> dict[str, str]:
    """The base's license fields, from its model card or GGUF metadata; {} where it names none."""
    if source.is_gguf(base.path):
        from jaxsft.convert.gguf import header

        value = header.read(base.path).metadata.get("general.license")
        return {"license": value} if isinstance(value, str) else {}
    readme = base.path / "README.md"
    return card.license_fields(readme.read_text("utf-8", "replace")) if readme.is_file() else {}


@progress.during("reading tensors")
def _verify(partial: Path, base: Pretrained, digests: dict[str, str]) -> None:
    """Compares the files with what was meant to be written."""
    written = safetensors_read.Directory(partial, dtypes=safetensors_read.ANY_DTYPES)
    assert set(written.names()) == set(digests), partial
    for name, digest in digests.items():
        if safetensors_write.digest(written.read(name)) != digest:
            raise ConversionError(f"{partial}: {name} reads back differently; is the disk sound?")
        progress.mark()
    where = str(partial / "config.json")
    config = untrusted.read_json(partial / "config.json")
    decoder, _ = config_json.settings_from_config(config, where)
    expected = dataclasses.replace(base.settings, num_padding=0)  # tokens to other programs
    assert decoder == expected, f"{where}: {decoder} instead of {expected}"


def publish(partial: Path, directory: Path) -> None:
    """Gives what is complete its name, in the place of an earlier export."""
    replaced = directory.with_name(f".{directory.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if directory.exists():
        directory.rename(replaced)
    partial.rename(directory)
    shutil.rmtree(replaced, ignore_errors=True)
