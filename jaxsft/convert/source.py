"""What config.model.source names: a Hugging Face directory, hub id, .gguf file or run directory.

Imports neither jax nor transformers: data preparation uses it too.
"""

import difflib
import re
from pathlib import Path

from jaxsft.convert.families import config_json, quantised
from jaxsft.errors import ConversionError
from jaxsft.files import model_links, places, run_names, untrusted
from jaxsft.model.quantised import KINDS

# Never pickled weights and never code. "*" also matches "/", so sub-directories are ignored apart.
HUB_FILES = [
    "*.json",
    "*.safetensors",
    "*.model",
    "*.jinja",
    "*.txt",
    "LICENSE*",
    "NOTICE*",
    "*.md",
]
# Some publishers keep a second copy of the weights in a format of their own.
HUB_IGNORED = ["*/*", "consolidated*.safetensors"]
PICKLES = ("pytorch_model*.bin*", "*.pt", "*.pth", "*.ckpt", "consolidated*.pth")
MODEL_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
# In an export: digests of its tensors; without it a directory is not ours to replace.
EXPORT_MARKER = "jaxsft_export.json"
ADAPTER = "adapter_config.json"  # a LoRA adapter in PEFT's format
_TOKENIZER_FILE = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt"
    r"|.*\.model|.*\.tiktoken|.*\.jinja"
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
# Read with them by transformers: a web page under one of these names would become a prompt.
TOKENIZER_EXTRAS = (
    *("chat_template.jinja", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
)


def resolve(source: str | Path, *, weights: bool = True) -> Path:
    """The local Hugging Face directory or .gguf file that `source` names; a hub id is downloaded.

    A run directory stands for its export/, an adapter for its base.

    Args:
        weights: False: only its tokenizer is wanted, whatever the family of its model.

    Raises:
        ConversionError: nothing there, something that weights can't be read from, or a directory
            with links out of it.
    """
    if "://" in str(source):
        raise ConversionError(
            f"model.source={source}: remote paths can't be read; copy it to a local directory"
        )
    if not str(source):
        raise ConversionError("model.source='': name a directory, a hub id or a .gguf file")
    path = Path(source).expanduser()
    if path.is_dir():
        return _resolve_directory(path, weights)
    if path.is_file():
        return _resolve_file(path)
    if is_hub_id(str(source)) and not Path(path.parts[0]).exists():
        return _resolve_directory(_download(str(source), weights), weights)
    raise ConversionError(f"model.source={source}: no such file or directory{_near(path)}")


def is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf"


def is_hub_id(source: str) -> bool:
    """Whether `source` is spelled like org/name."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source)) and not source.endswith(".gguf")


def tokenizer_directory(
    source: str | Path, chosen: str | Path | None = None, cache_dir: str | None = None
) -> Path:
    """A Hugging Face tokenizer directory for `source`; rebuilt from its metadata for a .gguf file.

    Args:
        chosen: config.data.tokenizer, which stands in for the model's own.
        cache_dir: config.data.cache_dir, where one that is rebuilt lies; None: the user's cache.

    Raises:
        ConversionError: as resolve; no tokenizer there, or one of a kind that can't be rebuilt.
    """
    if chosen is not None and Path(chosen).is_dir():
        path = Path(chosen)  # holds no model, so it needs no config.json
    elif chosen is not None:  # of another model only the tokenizer is wanted
        is_fetched = is_hub_id(str(chosen)) and not Path(chosen).exists()
        there = _download(str(chosen), weights=False) if is_fetched else chosen
        path = own_tokenizer(there) or resolve(there, weights=False)
    else:
        path = own_tokenizer(source) or resolve(source)
    if is_gguf(path):
        from jaxsft.convert.gguf import tokenizer

        return tokenizer.cached_directory(path, cache_dir)
    model_links.refuse_leading_out(path)
    found = [name for name in TOKENIZER_FILES if (path / name).is_file()]
    if not found:
        raise ConversionError(
            f"{path}: has no tokenizer (none of {', '.join(TOKENIZER_FILES)});"
            " name a directory that has one in config.data.tokenizer"
        )
    found += [name for name in TOKENIZER_EXTRAS if (path / name).is_file()]
    for name in found:
        untrusted.refuse_impostor(path / name)
        if name.endswith(".json"):
            untrusted.refuse_cut_json(path / name)
    if TOKENIZER_FILES[0] not in found and "tokenizer.model" in found:
        untrusted.refuse_cut_model(path / "tokenizer.model")
    return path


def is_tokenizer_file(path: Path) -> bool:
    """Whether a file of a model's directory belongs to its tokenizer, by its name."""
    return bool(_TOKENIZER_FILE.fullmatch(path.name))


def tokenizer_files(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_file() and is_tokenizer_file(path)]


def own_tokenizer(source: str | Path) -> Path | None:
    """The directory of an adapter that comes with a tokenizer, which then stands in for the base's.

    None: `source` is no adapter, or one without.
    """
    adapter = adapter_directory(source)
    if adapter is not None and any((adapter / name).is_file() for name in TOKENIZER_FILES):
        return adapter
    return None


def _resolve_file(path: Path) -> Path:
    if not is_gguf(path):
        raise ConversionError(
            f"model.source={path}: is a file that is not .gguf;"
            " name the directory with config.json and the weights instead"
        )
    untrusted.refuse_impostor(path)
    return path


def adapter_directory(source: str | Path) -> Path | None:
    """The directory of a LoRA adapter that `source` names, if it does; a hub id is downloaded.

    Raises:
        ConversionError: it is the directory of a model too.
    """
    path = Path(source).expanduser()
    if not path.exists() and is_hub_id(str(source)) and not Path(path.parts[0]).exists():
        path = _download(str(source))
    if not (path / ADAPTER).is_file() and (path / run_names.EXPORT / ADAPTER).is_file():
        path = path / run_names.EXPORT  # of a run that trained an adapter
    if not (path / ADAPTER).is_file():
        return None
    model_links.refuse_leading_out(path)
    files = [file for pattern in MODEL_WEIGHTS for file in sorted(path.glob(pattern))]
    if (path / "config.json").is_file() and files:
        raise ConversionError(
            f"model.source={path}: has {ADAPTER} beside config.json and {files[0].name}: is the"
            " adapter meant, or the model? Move the files of the other one away"
        )
    return path


def adapter_notes(source: str | Path, path: Path) -> list[str]:
    """A line for what lies beside an adapter or a model as if it belonged to it.

    Args:
        path: what `source` resolves to.
    """
    adapter = adapter_directory(source)
    if adapter is not None:
        told = _kept_base_notes(adapter)
        if (adapter / "config.json").is_file():
            line = f"{adapter}: config.json has no effect beside {ADAPTER}; the base's own is read"
            told.append(line)
        return told
    found = sorted(path.glob("adapter_model.*")) if path.is_dir() else []
    return [f"{file}: has no {ADAPTER} beside it and is not read" for file in found]


def _kept_base_notes(adapter: Path) -> list[str]:
    """A line for an adapter that a run of ours trained on another base than the files hold."""
    marker = adapter / EXPORT_MARKER
    kept = untrusted.read_json(marker).get("frozen_dtype") if marker.is_file() else None
    if kept not in KINDS:
        return []
    return [
        f"{adapter}: was trained on its base in {kept}; on the base in its files it predicts"
        " something else (report.html of its run: how much)"
    ]


def _base_of(directory: Path) -> str:
    """What base_model_name_or_path names: a path from the adapter's directory, or as it stands."""
    name = untrusted.read_json(directory / ADAPTER).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ConversionError(
            f"{directory / ADAPTER}: base_model_name_or_path={name!r}; name the base model"
        )
    beside = directory / name
    found = str(beside) if beside.exists() else name
    if adapter_directory(found) is not None:
        raise ConversionError(
            f"{directory / ADAPTER}: base_model_name_or_path={name!r} is an adapter itself; merge"
            " it first"
        )
    return found


def _resolve_base(adapter: Path, weights: bool) -> Path:
    """What the base of an adapter resolves to; an error names the file that names it."""
    try:
        return resolve(_base_of(adapter), weights=weights)
    except ConversionError as error:
        field, _, rest = str(error).partition("=")
        if field != "model.source":
            raise  # of a file of the base
        raise ConversionError(f"{adapter / ADAPTER}: base_model_name_or_path={rest}") from error


def _resolve_directory(path: Path, weights: bool) -> Path:
    if (adapter := adapter_directory(path)) is not None:
        return _resolve_base(adapter, weights)
    if not (path / "config.json").is_file():
        ggufs = sorted(p.name for p in path.glob("*.gguf"))
        hint = f"; did you mean the file {ggufs[0]} in it?" if ggufs else ""
        raise ConversionError(
            f"model.source={path}: has no config.json: not a Hugging Face model directory{hint}"
        )
    config = untrusted.read_json(path / "config.json")
    if "model_type" not in config and isinstance(config.get("model"), dict):
        exported = path / run_names.EXPORT
        if (exported / "config.json").is_file():
            model_links.refuse_leading_out(exported)
            return exported
        raise ConversionError(
            f"model.source={path}: is a run directory without export/; export it first"
            " (tools/export_hf.py --workdir) and name the exported directory"
        )
    model_links.refuse_leading_out(path)
    return path


def refuse_pickles(path: Path) -> None:
    """Explains a directory in which no safetensors file was found.

    Raises:
        ConversionError: always.
    """
    pickles = sorted(p.name for pattern in PICKLES for p in path.glob(pattern))
    if pickles:
        raise ConversionError(
            f"{path}: has pickled weights only ({pickles[0]}), which can run code when read; in a"
            " sandbox, convert them with transformers:"
            f" AutoModelForCausalLM.from_pretrained({str(path)!r}).save_pretrained(NEW)"
        )
    others = sorted(p.name for p in path.glob("*.safetensors"))
    hint = f"; it has {', '.join(others[:3])}, which is not a name transformers reads" * bool(
        others
    )
    config = path / "config.json"
    kind = untrusted.read_json(config).get("model_type") if config.is_file() else None
    of = f" for its model_type={kind!r}" if kind else ""
    raise ConversionError(
        f"{path}: has neither model.safetensors nor model.safetensors.index.json{of}{hint}"
    )


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; {path.parent} is not there either" if path.parent != Path(".") else ""
    names = [p.name for p in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, 3)
    return (
        f"; did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""
    )


def _refuse_before_download(hub_id: str) -> None:
    """Fetches the few small files that tell whether the weights can be read at all.

    Raises:
        ConversionError: a family that is not supported, or quantised weights.
    """
    import huggingface_hub

    first = ["config.json", *quantised.FILES]
    directory = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=first))
    path = directory / "config.json"
    if path.is_file():  # an adapter has none
        config_json.refuse_unsupported(untrusted.read_json(path), f"{hub_id}/config.json")
        quantised.refuse_files(directory)


def _download(hub_id: str, weights: bool = True) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        if weights:
            _refuse_before_download(hub_id)
        wanted = [pattern for pattern in HUB_FILES if weights or pattern != "*.safetensors"]
        directory = huggingface_hub.snapshot_download(
            hub_id, allow_patterns=wanted, ignore_patterns=HUB_IGNORED
        )
    except ConversionError:
        raise  # a ValueError too
    except errors.GatedRepoError:
        raise ConversionError(
            f"model.source={hub_id}: is gated; accept its terms on huggingface.co and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ConversionError(
            f"model.source={hub_id}: no such directory here and no such model on huggingface.co"
            " (for a private one, set HF_TOKEN)"
        ) from None
    except (OSError, ValueError, errors.LocalEntryNotFoundError) as error:
        if refusal := places.user_error(error):  # no place for it here: HF_HOME
            raise refusal from error
        raise ConversionError(
            f"model.source={hub_id}: no such directory here, and huggingface.co can't be reached"
            f" ({type(error).__name__}); name a local directory"
        ) from error
    return Path(directory)
