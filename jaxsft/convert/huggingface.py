"""Parameters from and to Hugging Face tensors.

Reading fills each device's part of a stacked leaf layer by layer, so a process reads what it holds.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils

from jaxsft.convert import families, host_copy, safetensors_write
from jaxsft.convert.families import Row, Table, Tensor, Weight
from jaxsft.errors import ConversionError
from jaxsft.model import rope, settings
from jaxsft.model.state import Params

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
# Old checkpoints keep the rotary frequencies in float16 or bfloat16: 8 bits of mantissa.
BUFFER_TOLERANCE = 1e-2
_BUFFER = re.compile(re.escape(families.BUFFER).replace(r"\{\}", r"\d+"))


class Tensors(Protocol):
    """Named tensors of a model on disk, under Hugging Face names."""

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> np.dtype: ...

    def read(self, name: str) -> np.ndarray: ...


def read_params(
    tensors: Tensors, table: Table, shapes: Params, placement: Params, where: str
) -> Params:
    """Float32 parameters, each placed by its sharding.

    Args:
        table: of the model's family.
        shapes: the tree of `state.abstract`.
        placement: the NamedShardings of `state.shardings`.
        where: what to call the model in errors.

    Raises:
        ConversionError: a NaN or infinite value, by its tensor's name.
    """
    result: Params = {}
    named = {tensor.name: tensor for tensor in families.tensors(shapes, table)}
    for row in families.rows(shapes, table):
        target = result
        for key in row.ours[:-1]:
            target = target.setdefault(key, {})
        sharding = families.leaf(placement, row.ours)
        target[row.ours[-1]] = _read_leaf(tensors, named, row, shapes, sharding, where)
    return result


def _read_leaf(
    tensors: Tensors,
    named: Mapping[str, Tensor],
    row: Row,
    shapes: Params,
    sharding: jax.sharding.Sharding,
    where: str,
) -> jax.Array:
    shape = tuple(families.leaf(shapes, row.ours).shape)
    parts: dict[str, tuple[tuple[slice, ...], np.ndarray]] = {}
    for index in sharding.addressable_devices_indices_map(shape).values():
        index = _full(index, shape)
        if str(index) not in parts:
            parts[str(index)] = (index, host_copy.zeros([s.stop - s.start for s in index]))
    for weight in families.row_weights(row, shapes):
        ours = named[weight.name].to_ours(tensors.read(weight.name), weight)
        for index, part in parts.values():
            _fill(part, index, ours, weight, where)
    return jax.make_array_from_callback(
        shape, sharding, lambda index: parts[str(_full(index, shape))][1]
    )


def _full(index: tuple[slice, ...] | None, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The index with its open slices closed: one spelling for each part of the array."""
    assert index is not None
    return tuple(slice(*s.indices(size)[:2]) for s, size in zip(index, shape, strict=True))


def _fill(
    part: np.ndarray, index: tuple[slice, ...], ours: np.ndarray, weight: Weight, where: str
) -> None:
    """Copies into `part` what `index` takes of one tensor."""
    for at in weight.index:
        if not index[0].start <= at < index[0].stop:
            return
        part, index = part[at - index[0].start], index[1:]
    if not host_copy.copy(part, ours[index]):
        raise ConversionError(f"{where}: {weight.name} holds NaN or infinite values")


def check_names(
    tensors: Tensors, table: Table, shapes: Params, decoder: settings.Decoder, where: str
) -> list[str]:
    """Checks that each tensor is there, as config.json says; a line for those that are copies.

    Raises:
        ConversionError: a missing, unexpected or mis-shaped tensor; a tied head that differs.
    """
    expected = {tensor.name: tensor for tensor in families.tensors(shapes, table)}
    head, embedding = (_name(table, leaf) for leaf in ("head_DV", "embedding_VD"))
    there = set(tensors.names())
    notes = []
    if missing := sorted(set(expected) - there):
        _check_layers(there, decoder.num_layers, where)
        raise ConversionError(f"{where}: the weights lack {_some(missing)}")
    if decoder.tied_embeddings and head in there:
        notes.append(_check_tied(tensors, head, embedding, where))
        there.remove(head)
    buffers = {name for name in there if _BUFFER.fullmatch(name)}
    if buffers:
        notes.append(_check_buffers(tensors, sorted(buffers), decoder, where))
    _check_layers(there, decoder.num_layers, where)
    if extra := sorted(there - set(expected) - buffers):
        raise ConversionError(f"{where}: the weights have unexpected {_some(extra)}")
    for name, tensor in expected.items():
        if tensors.shape(name) != tensor.their_shape:
            raise ConversionError(
                f"{where}: {name} has shape {tensors.shape(name)}, config.json asks for"
                f" {tensor.their_shape}"
            )
    return notes


def _name(table: Table, leaf: str) -> str:
    return next(row.theirs for row in table if row.ours == (leaf,))


def _check_layers(names: set[str], num_layers: int, where: str) -> None:
    matches = (re.match(r"\w+\.layers\.(\d+)\.", name) for name in names)
    layers = {int(match[1]) for match in matches if match}
    if layers and layers != set(range(num_layers)):
        raise ConversionError(
            f"{where}: config.json says num_hidden_layers={num_layers} but the weights hold"
            f" {len(layers)} layers ({min(layers)}-{max(layers)})"
        )


def _check_tied(tensors: Tensors, head_name: str, embedding_name: str, where: str) -> str:
    head, embedding = tensors.read(head_name), tensors.read(embedding_name)
    same = (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    if not same or safetensors_write.digest(head) != safetensors_write.digest(embedding):
        raise ConversionError(
            f"{where}: config.json says tie_word_embeddings=true but {head_name} differs from"
            f" {embedding_name}; set it to false if the head is meant"
        )
    return f"{where}: {head_name} is a copy of the tied {embedding_name}; not exported"


def _check_buffers(
    tensors: Tensors, names: list[str], decoder: settings.Decoder, where: str
) -> str:
    unscaled = dataclasses.replace(decoder.rope, scaling=None)
    derived = rope.inverse_frequencies(unscaled, decoder.head_dim)
    for name in names:
        stored = tensors.read(name).astype(np.float32)
        if stored.shape != derived.shape or not np.allclose(stored, derived, BUFFER_TOLERANCE, 0):
            raise ConversionError(
                f"{where}: {name} differs from rope_theta={decoder.rope.theta:g} of config.json"
            )
    return f"{where}: {len(names)} rotary_emb.inv_freq follow from rope_theta; not exported"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def write_params(
    params: Params,
    table: Table,
    directory: Path,
    dtypes: Mapping[str, np.dtype],
    max_shard_bytes: int = safetensors_write.MAX_SHARD_BYTES,
) -> dict[str, str]:
    """Writes model*.safetensors and returns the sha256 of each tensor that was meant to be written.

    Every process of a multi-host run takes part; the first one writes.

    Args:
        dtypes: of each tensor, by its Hugging Face name.

    Raises:
        ConversionError: a value that is not finite, or not in its dtype.
    """
    found = {tensor.name: tensor for tensor in families.tensors(params, table)}
    planned = [
        safetensors_write.Planned(name, dtypes[name], tensor.their_shape)
        for name, tensor in found.items()
    ]

    def produce(name: str) -> np.ndarray:
        return to_theirs(params, found[name], dtypes[name])

    if jax.process_index() == 0:
        return safetensors_write.write(directory, planned, produce, max_shard_bytes)
    for shard in safetensors_write.plan_shards(planned, max_shard_bytes):
        for tensor in shard:
            produce(tensor.name)
    return {}


def to_theirs(params: Params, tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    if len(tensor.weights) == 1:
        return _weight_to_theirs(params, tensor.weights[0], dtype)
    result = np.empty(tensor.their_shape, dtype)
    for weight in tensor.weights:
        part = tensor.part(result, weight)
        part[...] = _weight_to_theirs(params, weight, dtype).reshape(part.shape)
    return result


def _weight_to_theirs(params: Params, weight: Weight, dtype: np.dtype) -> np.ndarray:
    leaf: Any = families.leaf(params, weight.row.ours)
    wide = _on_host(leaf[weight.index] if weight.index else leaf)
    if not np.isfinite(wide).all():
        raise ConversionError(f"{weight.name}: holds NaN or infinite values; not exported")
    with np.errstate(over="ignore"):
        array = weight.row.layout.to_theirs(wide).astype(dtype)
    if not np.isfinite(array).all():
        raise ConversionError(
            f"{weight.name}: {np.abs(wide).max():g} does not fit in {dtype}; export as bfloat16"
        )
    return array


def _on_host(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
