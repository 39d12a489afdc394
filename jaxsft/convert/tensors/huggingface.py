"""Parameters from and to Hugging Face tensors.

Reading fills each device's part of a stacked leaf layer by layer, so a process reads what it holds.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils

from jaxsft.convert.families import tensor_table
from jaxsft.convert.families.tensor_table import Table, Tensor, TensorRow, Weight
from jaxsft.convert.tensors import host_quantised, safetensors_write
from jaxsft.convert.tensors.host_parts import HostParts
from jaxsft.devices import progress
from jaxsft.errors import ConversionError
from jaxsft.model import settings
from jaxsft.model.quantised import Quantised
from jaxsft.model.state import Params

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


class Tensors(Protocol):
    """Named tensors of a model on disk, under Hugging Face names."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> np.dtype: ...

    def read(self, name: str) -> np.ndarray: ...  # or what np.asarray makes one, once it is sliced


@progress.during("reading tensors")
def read_params(
    tensors: Tensors, table: Table, shapes: Params, placement: Params, where: str
) -> Params:
    """Parameters in the dtypes of `shapes`, each placed by its sharding.

    Beside them stay a block for each thread, and one tensor where `tensors` makes it anew. What
    `shapes` has quantised is made from whole tensors, so each process reads those whole.

    Args:
        table: of the model's family.
        shapes: the tree of `state.abstract`.
        placement: the NamedShardings of `state.shardings`.
        where: what to call the model in errors.

    Raises:
        ConversionError: a NaN or infinite value, by its tensor's name.
    """
    result: Params = {}
    named = {tensor.name: tensor for tensor in tensor_table.tensors(shapes, table)}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        reader = _Reader(tensors, named, where, threads)
        for row in tensor_table.used_rows(shapes, table):
            target = result
            for key in row.ours[:-1]:
                target = target.setdefault(key, {})
            target[row.ours[-1]] = reader.read_leaf(row, shapes, placement)
    return result


@dataclasses.dataclass(frozen=True)
class _Reader:
    tensors: Tensors
    named: Mapping[str, Tensor]
    where: str
    threads: Executor

    def read_leaf(self, row: TensorRow, shapes: Params, placement: Params) -> Any:
        """An array, or a weight that is quantised as it is read."""
        leaf = tensor_table.leaf(shapes, row.ours)
        filled: Any = jax.tree.map(HostParts.of, leaf, tensor_table.leaf(placement, row.ours))
        for weight in tensor_table.row_weights(row, shapes):
            ours = self.named[weight.name].to_ours(self.tensors.read(weight.name), weight)
            if isinstance(leaf, Quantised):
                is_finite = self._fill_quantised(filled, leaf, np.asarray(ours), weight)
            else:
                is_finite = filled.fill(weight.index, ours, self.threads)
            if not is_finite:
                fits = "" if leaf.dtype == np.float32 else f", or too large for {leaf.dtype}"
                raise ConversionError(
                    f"{self.where}: {weight.name} holds NaN or infinite values{fits}"
                )
            progress.mark()
        return jax.tree.map(HostParts.placed, filled)

    def _fill_quantised(
        self, filled: Quantised, leaf: Quantised, ours: np.ndarray, weight: Weight
    ) -> bool:
        made = host_quantised.of_tensor(ours, leaf, self.threads)
        for part, array in zip(jax.tree.leaves(filled), jax.tree.leaves(made), strict=True):
            part.fill(weight.index, array, self.threads)
        return host_quantised.is_finite(made)


def check_names(
    tensors: Tensors,
    constants: set[str],
    table: Table,
    shapes: Params,
    decoder: settings.DecoderSettings,
    where: str,
) -> list[str]:
    """Checks that each tensor is there, as config.json says; a line for those that are copies.

    Args:
        constants: names that `buffers.checked_constants` knows.

    Raises:
        ConversionError: a missing, unexpected or mis-shaped tensor; a tied head that differs.
    """
    expected = {tensor.name: tensor for tensor in tensor_table.tensors(shapes, table)}
    head, embedding = (
        tensor_table.tensor_name(table, leaf) for leaf in ("head_DV", "embedding_VD")
    )
    there = set(tensors.names()) - constants
    notes = []
    if missing := sorted(set(expected) - there):
        _check_layers(there, decoder.num_layers, where)
        raise ConversionError(f"{where}: the weights lack {_some(missing)}")
    if decoder.tied_embeddings and head in there:
        notes.append(check_tied(tensors, head, embedding, where))
        there.remove(head)
    _check_layers(there, decoder.num_layers, where)
    if extra := sorted(there - set(expected)):
        raise ConversionError(f"{where}: the weights have unexpected {_some(extra)}")
    for name, tensor in expected.items():
        if tensors.dtype(name) not in DTYPES.values():
            known = ", ".join(DTYPES)
            raise ConversionError(
                f"{where}: {name} has dtype {tensors.dtype(name)}; {known} are supported"
            )
        if tensors.shape(name) != tensor.their_shape:
            raise ConversionError(
                f"{where}: {name} has shape {tensors.shape(name)}, config.json asks for"
                f" {tensor.their_shape}"
            )
    return notes


def _check_layers(names: set[str], num_layers: int, where: str) -> None:
    matches = (re.match(r"(?:\w+\.)+layers\.(\d+)\.", name) for name in names)
    layers = {int(match[1]) for match in matches if match}
    if layers and layers != set(range(num_layers)):
        raise ConversionError(
            f"{where}: config.json says num_hidden_layers={num_layers} but the weights hold"
            f" {len(layers)} layers ({min(layers)}-{max(layers)})"
        )


def check_tied(tensors: Tensors, head_name: str, embedding_name: str, where: str) -> str:
    """A line that says that the head in the file is a copy.

    Raises:
        ConversionError: it is none.
    """
    head, embedding = tensors.read(head_name), tensors.read(embedding_name)
    same = (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    if not same or safetensors_write.digest(head) != safetensors_write.digest(embedding):
        raise ConversionError(
            f"{where}: config.json says tie_word_embeddings=true but {head_name} differs from"
            f" {embedding_name}; set it to false if the head is meant"
        )
    return f"{where}: {head_name} is a copy of the tied {embedding_name}; not exported"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclasses.dataclass
class WrittenTensors:
    """What write_params meant to write; known to the first process only."""

    digests: dict[str, str]  # sha256 of each tensor
    num_zeroed: int  # values that were not 0 and are 0 in their tensor's dtype


@progress.during("writing tensors")
def write_params(
    params: Params,
    table: Table,
    directory: Path,
    dtypes: Mapping[str, np.dtype],
    max_shard_bytes: int = safetensors_write.MAX_SHARD_BYTES,
    others: Tensors | None = None,
    in_file: Callable[[str], str] = str,
) -> WrittenTensors:
    """Writes model*.safetensors; every process takes part, the first one writes.

    Args:
        dtypes: of each tensor, by its name in the table.
        in_file: what the file calls it.
        others: tensors that are copied bit for bit, one at a time.

    Raises:
        ConversionError: a value that is not finite, or not in its dtype.
    """
    found = {in_file(tensor.name): tensor for tensor in tensor_table.tensors(params, table)}
    planned = [
        safetensors_write.Planned(name, dtypes[tensor.name], tensor.their_shape, tensor.block)
        for name, tensor in found.items()
    ]
    copied = set(others.names()) if others is not None else set()
    if others is not None:
        planned += [
            safetensors_write.Planned(name, others.dtype(name), others.shape(name))
            for name in others.names()
        ]

    written = WrittenTensors({}, 0)

    def produce(name: str) -> np.ndarray:
        progress.mark()  # the one before is written
        if others is not None and name in copied:
            return others.read(name)
        array, num_zeroed = to_theirs(params, found[name], dtypes[found[name].name])
        written.num_zeroed += num_zeroed
        return array

    if jax.process_index() == 0:
        written.digests = safetensors_write.write(directory, planned, produce, max_shard_bytes)
        return written
    for shard in safetensors_write.plan_shards(planned, max_shard_bytes):
        for tensor in shard:
            if tensor.name not in copied:
                produce(tensor.name)
    return written


def to_theirs(params: Params, tensor: Tensor, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """The tensor, and how many of its values were too small for the dtype and are 0 now."""
    if len(tensor.weights) == 1:
        return _weight_to_theirs(params, tensor.weights[0], dtype)
    result, num_zeroed = np.empty(tensor.their_shape, dtype), 0
    for weight in tensor.weights:
        part = tensor.part(result, weight)
        array, zeroed = _weight_to_theirs(params, weight, dtype)
        part[...] = array.reshape(part.shape)
        num_zeroed += zeroed
    return result, num_zeroed


def _weight_to_theirs(params: Params, weight: Weight, dtype: np.dtype) -> tuple[np.ndarray, int]:
    leaf: Any = tensor_table.leaf(params, weight.row.ours)
    part = leaf[weight.index] if weight.index else leaf
    wide = on_host(part.astype(np.float32) if isinstance(part, Quantised) else part)
    if not np.isfinite(wide).all():
        raise ConversionError(f"{weight.name}: holds NaN or infinite values; not exported")
    with np.errstate(over="ignore"):
        # In the file's order at once: a transposed copy would be copied again to be written.
        array = weight.row.layout.to_theirs(wide).astype(dtype, order="C", copy=False)
    if not np.isfinite(array).all():
        raise ConversionError(
            f"{weight.name}: {np.abs(wide).max():g} does not fit in {dtype}; export as bfloat16"
        )
    if array.dtype == wide.dtype:
        return array, 0
    return array, int(np.count_nonzero(wide) - np.count_nonzero(array))


def on_host(array: jax.Array) -> np.ndarray:
    """The whole array; every process of a multi-host run takes part."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    with progress.waiting():
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
