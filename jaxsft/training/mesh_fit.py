"""Which meshes fit a model, a batch and a number of devices."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import jax

from jaxsft.config import Config, Mesh
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import MeshError
from jaxsft.model import settings, state

Leaf = tuple[str, tuple[int, ...], tuple[str, ...]]  # name, shape, logical axes


def check(config: Config, model: settings.DecoderSettings, sizes: Mapping[str, int]) -> None:
    """Refuses a mesh that can't split the model or its batches evenly.

    Raises:
        MeshError: naming what does not split.
    """
    _check(config, model, leaves(model), sizes)


def check_given(config: Config, model: settings.DecoderSettings) -> None:
    """Refuses axes of config.mesh that no number of devices makes right; open ones count as 1.

    Raises:
        MeshError: as in `check`.
    """
    check(config, model, given_sizes(config.mesh))


def given_sizes(sizes: Mesh) -> dict[str, int]:
    """The size of each axis, 1 where it is open."""
    return {axis: size or 1 for axis, size in dataclasses.asdict(sizes).items()}


def fitting(
    config: Config, model: settings.DecoderSettings, num_devices: int, slices: int = 1
) -> list[Mesh]:
    """All meshes of these devices that split model and batches evenly, the plainest first.

    Plain: nothing but data over the network between slices, then little beside data and fsdp, then
    few replicas.
    """
    named = leaves(model)

    def fits(sizes: Mesh) -> bool:
        try:
            _check(config, model, named, given_sizes(sizes))
        except MeshError:
            return False
        return True

    def plainness(sizes: Mesh) -> tuple[bool, int, int]:
        data = sizes.data or 1
        return data % slices > 0, sizes.context * sizes.expert * sizes.tensor, data

    return sorted((one for one in _all(num_devices) if fits(one)), key=plainness)


def splitting(meshes: list[Mesh], model: settings.DecoderSettings) -> list[Mesh]:
    """Those of the meshes that split another model's parameters evenly, too."""
    named = leaves(model)

    def splits(sizes: Mesh) -> bool:
        try:
            _check_leaves(named, given_sizes(sizes))
        except MeshError:
            return False
        return True

    return [one for one in meshes if splits(one)]


def leaves(model: settings.DecoderSettings) -> list[Leaf]:
    """All parameters, by their dotted paths."""
    _, shapes, axes = state.abstract(model, "float32", "none")
    found = jax.tree.leaves_with_path(shapes)
    names = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf.shape, one)
        for (path, leaf), one in zip(found, names, strict=True)
    ]


def _check(
    config: Config, model: settings.DecoderSettings, named: list[Leaf], sizes: Mapping[str, int]
) -> None:
    train, length = config.train, config.data.sequence_length
    if sizes["expert"] > 1 and model.moe is None:
        raise MeshError(f"config.mesh.expert={sizes['expert']}: the model has no experts")
    check_batch(sizes, train.batch_size, train.microbatches, length)
    if config.eval.batch_size is not None:
        check_batch(sizes, config.eval.batch_size, 1, length, "config.eval.batch_size")
    _check_leaves(named, sizes)


def _check_leaves(named: list[Leaf], sizes: Mapping[str, int]) -> None:
    for name, shape, axes in named:
        mesh_lib.check_divisible(name, shape, axes, sizes)


def batch_multiple(sizes: Mapping[str, int], microbatches: int = 1) -> int:
    """What the rows of a batch must be a multiple of: each device that has rows of its own needs as
    many as the others, in each micro-batch."""
    return mesh_lib.parts("batch", sizes) * microbatches


def enough_rows(rows: int, sizes: Mapping[str, int], microbatches: int = 1) -> int:
    """The smallest batch that splits evenly and has room for so many rows."""
    multiple = batch_multiple(sizes, microbatches)
    return -(-rows // multiple) * multiple


def check_batch(
    sizes: Mapping[str, int],
    batch_size: int,
    microbatches: int,
    sequence_length: int,
    name: str = "config.train.batch_size",
) -> None:
    """Refuses a batch that the mesh can't split evenly.

    Args:
        name: the field that asks for it.

    Raises:
        MeshError: naming batch_size, microbatches and the devices that share rows.
    """
    shares, multiple = batch_multiple(sizes), batch_multiple(sizes, microbatches)
    if batch_size % multiple:
        over = " x ".join(mesh_lib.RULES["batch"])
        raise MeshError(
            f"{name}={batch_size}: {microbatches} micro-batches over {shares}"
            f" devices ({over}) need a multiple of {multiple}"
        )
    if sequence_length % mesh_lib.parts("sequence", sizes):
        raise MeshError(
            f"config.data.sequence_length={sequence_length}: config.mesh.context="
            f"{sizes['context']} does not divide it"
        )


def _all(num_devices: int) -> Iterator[Mesh]:
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    for context, expert, tensor in itertools.product(divisors, repeat=3):
        rest, left = divmod(num_devices, context * expert * tensor)
        for data in (n for n in divisors if not left and rest % n == 0):
            yield Mesh(data=data, fsdp=rest // data, context=context, expert=expert, tensor=tensor)


def proposal(
    config: Config, model: settings.DecoderSettings, num_devices: int, slices: int = 1
) -> str:
    """Up to three meshes that fit, in words; the nearest to what was asked for first."""
    asked = dataclasses.asdict(config.mesh)

    def changes(sizes: Mesh) -> int:
        given = dataclasses.asdict(sizes).items()
        return sum(asked[axis] not in (None, size) for axis, size in given)

    for changed, its_words in _other_batches(config, num_devices):
        near = sorted(fitting(changed, model, num_devices, slices), key=changes)[:3]
        if near:
            fit = "; or ".join(words(sizes) for sizes in near)
            return f"config.mesh that would fit{its_words}: {fit}"
    raise AssertionError("a replica on each device fits every model, with a row for each")


def _other_batches(config: Config, num_devices: int) -> Iterator[tuple[Config, str]]:
    """The config, then with batches that more devices share, the nearest first; and in words."""
    yield config, ""
    if config.eval.batch_size is not None:
        config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, batch_size=None))
        yield config, " with config.eval.batch_size=None"
    train, also = config.train, ""
    shared = [train.microbatches * n for n in range(1, num_devices + 1) if num_devices % n == 0]
    above = {-(-train.batch_size // count) * count for count in shared}
    for size in sorted(above - {train.batch_size}):
        changed = dataclasses.replace(train, batch_size=size)
        yield (
            dataclasses.replace(config, train=changed),
            f" with config.train.batch_size={size}{also}",
        )


def words(sizes: Mesh) -> str:
    given = dataclasses.asdict(sizes).items()
    return ", ".join(f"{axis}={size}" for axis, size in given if size != 1) or "one device"
