"""What a peer needs to do the same work: the model as a Hugging Face directory, rows, settings."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np

from bench import step_batches
from jaxsft.config import Config, Lora
from jaxsft.convert import pretrained
from jaxsft.convert.families import tensor_table
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.tensors import huggingface
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.model import state
from jaxsft.training import first_state, inputs, mesh_program

# Fields of config.lora by what peft calls them.
_PEFT = {"rank": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora"}


def write(
    config: Config, peer: str, folder: Path, num_segments: int | None, num_steps: int
) -> dict[str, Any]:
    """Writes what the peer reads, in another process, whose memory is none of ours.

    Returns:
        The peer's job, all of it plain values.

    Raises:
        ConfigError: the peer can't do this config's work.
    """
    if peer != "transformers" and num_segments is not None:
        raise ConfigError(
            f"--synthetic_segments={num_segments}: --peer={peer} reads conversations, not rows"
        )
    _check_adapters(config, peer)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as other:
        return other.submit(_write, config, peer, folder, num_segments, num_steps).result()


def _check_adapters(config: Config, peer: str) -> None:
    """That peft's adapters are of our kind: on all linears, each of the same rank.

    Raises:
        ConfigError: the peer can't train what config.lora says.
    """
    if config.lora is None:
        return
    if peer != "transformers":
        raise ConfigError(
            f"config.lora.rank={config.lora.rank}: --peer={peer} trains all weights here;"
            " --peer=transformers trains adapters with peft"
        )
    for name, ours in dataclasses.asdict(config.lora).items():
        if name not in _PEFT and ours != getattr(Lora(), name):
            raise ConfigError(
                f"config.lora.{name}={ours}: --peer=transformers takes {', '.join(_PEFT)} alone"
            )


def _write(
    config: Config, peer: str, folder: Path, num_segments: int | None, num_steps: int
) -> dict[str, Any]:
    base = inputs.open_model(config, lambda topic, line: None)
    dtype = _kept_dtype(config, base)
    _write_model(config, base, folder, dtype)
    job: dict[str, Any] = {
        "model": str(folder),
        "dtype": config.model.dtype,
        "parameter_dtype": dtype,
        "microbatches": config.train.microbatches,
        "sequence_length": config.data.sequence_length,
        "seed": config.train.seed,
        "optim": dataclasses.asdict(config.optim),
        "lora": None if config.lora is None else _peft(config.lora),
    }
    if peer == "transformers":
        return job | {"rows": str(_write_rows(config, base, folder, num_segments, num_steps))}
    return job | {
        "conversations": _conversations(config, peer),
        "tokenizer": str(inputs.tokenizer_directory(config)),
    }


def _peft(lora: Lora) -> dict[str, Any]:
    """The arguments of peft's LoraConfig."""
    return {theirs: getattr(lora, ours) for ours, theirs in _PEFT.items()}


def _kept_dtype(config: Config, base: Pretrained) -> str:
    """Of the model's weights: beside adapters as they stand in its files."""
    if config.lora is None:
        return config.model.parameter_dtype
    if config.model.frozen_dtype != "source":
        return config.model.frozen_dtype
    stored = set(pretrained.stored_dtypes(base).values())
    return stored.pop() if len(stored) == 1 else "float32"


def _write_model(config: Config, base: Pretrained, folder: Path, kept: str) -> None:
    """config.json and safetensors, as our training starts with them."""
    _, shapes, axes = state.abstract(base.settings, "float32", "none", kept)
    placement = state.shardings(shapes, axes, mesh_lib.single_device_mesh())
    params = first_state.base_params(config, base, placement, shapes)
    names = [tensor.name for tensor in tensor_table.tensors(params, base.table)]
    dtype = huggingface.DTYPES[kept]
    huggingface.write_params(params, base.table, folder, {name: dtype for name in names})
    (folder / "config.json").write_text(json.dumps(base.config | {"torch_dtype": kept}))


def _write_rows(
    config: Config, base: Pretrained, folder: Path, num_segments: int | None, num_steps: int
) -> Path:
    """The arrays of each step, [steps, B, T]."""
    if num_segments is not None:
        batch, _ = step_batches.random_batch(config, base.settings, num_segments)
        batches = [batch]
    else:
        mesh = mesh_program.checked_mesh(config, base.settings)
        rows = step_batches.of_config(config, base, mesh)
        batches = [rows.host(number) for number in range(num_steps)]
    path = folder / "rows.npz"
    arrays: Any = {name: np.stack([one[name] for one in batches]) for name in batches[0]}
    np.savez(path, **arrays)
    return path


def _conversations(config: Config, peer: str) -> str:
    """The file that the peer's own data path reads."""
    sources = config.data.train
    path = sources[0].path
    if len(sources) > 1 or not path.endswith(".jsonl") or not Path(path).is_file():
        raise ConfigError(
            f"config.data.train[0].path={path}: --peer={peer} reads one local .jsonl file whose"
            f" rows have messages; there are {len(sources)} sources"
        )
    with open(path, encoding="utf-8") as lines:
        if "messages" not in json.loads(lines.readline()):
            raise ConfigError(f"{path}:1: --peer={peer} needs rows with messages")
    return str(Path(path).resolve())
