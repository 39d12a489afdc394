"""The laws of training, measured with a run's own model shape, mesh and back ends on its hardware.

Random weights and rows; few layers, float32, full precision of products, so that what differs by
more than rounding is a fault: of this program, of the compiler, or of a device.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxsft.config import Config
from jaxsft.data.pack import packing
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.model import settings, state
from jaxsft.model.attention.choice import kind_of
from jaxsft.model.state import Params
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.training import first_state, mesh_fit, mesh_program, over_mesh, step
from jaxsft.training.batch import Batch
from jaxsft.training.mesh_program import MeshProgram
from jaxsft.training.step import TrainState

MAX_LAYERS, MAX_LENGTH = 2, 1024
ALLOWED = 1e-4  # relative; sums in another order differ by about 1e-6, a fault by 1e-2 and more
UNMOVED = 1e-6  # relative; experts may take a token in another place of their batch
_BFLOAT16_STEP = 2.0**-7  # relative; by which that other place may round
_STEPS = 4
BatchFields = dict[str, np.ndarray]  # the fields of a Batch


@dataclasses.dataclass(frozen=True)
class Check:
    law: str
    difference: float  # relative, by norms or by the greatest value
    allowed: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed  # false for NaN


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the laws are measured with."""

    config: Config
    dtype: Literal["float32", "bfloat16"]  # of the run; config has float32
    model: settings.DecoderSettings
    mesh: Mesh
    params: Params  # on the host
    rows: BatchFields  # packed, on the host
    alone: BatchFields  # the same conversations, one a row

    @functools.cached_property
    def hidden(self) -> Callable[[BatchFields], np.ndarray]:
        """The last layer's output; compiled once for all laws that look at it."""
        return _hidden_of(self)


def measured(config: Config, base: settings.DecoderSettings, scratch: Path) -> Iterator[Check]:
    """Each law as soon as it is measured.

    Args:
        scratch: a directory that all processes see, for a checkpoint.

    Raises:
        ConfigError: a mesh that doesn't fit the devices, the model or the batch.
    """
    dtype = config.model.dtype
    config, model = _small(config, base)
    mesh = mesh_program.checked_mesh(config, model)
    with jax.default_matmul_precision("highest"):
        bench = _bench(config, dtype, model, mesh)
        whole = _gradients(bench, bench.rows, mesh_lib.single_device_mesh(), 1)
        compare = functools.partial(_difference, whole)
        parts = max(2, config.train.microbatches)
        found: list[tuple[str, Callable[[], float]]] = [
            (
                f"{parts} micro-batches: the gradient of one",
                lambda: compare(_gradients(bench, bench.rows, mesh, parts)),
            ),
            (
                f"mesh {mesh_lib.describe(mesh)}: the gradient of one device",
                lambda: compare(_gradients(bench, bench.rows, mesh, 1)),
            ),
            (
                "packed rows: the gradient of each conversation alone",
                lambda: compare(_gradients(bench, bench.alone, mesh_lib.single_device_mesh(), 1)),
            ),
        ]
        for law, measure in found:
            yield Check(law, measure(), ALLOWED)
        for name in _attention_back_ends(bench):
            law = f"attention by {name}: a conversation does not see its neighbours"
            rounded = model.moe is not None and dtype == "bfloat16"
            yield Check(law, _isolation(bench, name), _BFLOAT16_STEP if rounded else UNMOVED)
        yield Check("a token does not see later ones", _causality(bench), UNMOVED)
        yield Check(
            f"{_STEPS} steps with a restart: those without", _resumption(bench, scratch), 0.0
        )


def _small(
    config: Config, base: settings.DecoderSettings
) -> tuple[Config, settings.DecoderSettings]:
    """Few layers, of each kind one; float32; rows of up to MAX_LENGTH; the run's micro-batches."""
    dense = [layer in base.dense_layers for layer in range(base.num_layers)]
    alike = list(dict.fromkeys(zip(base.kinds(), dense, strict=True)))
    alike = (alike * MAX_LAYERS)[: max(MAX_LAYERS, len(alike))]
    model = dataclasses.replace(
        base,
        num_layers=len(alike),
        layer_kinds=tuple(kind for kind, _ in alike),
        dense_layers=tuple(layer for layer, (_, dense) in enumerate(alike) if dense),
    )
    parts = max(2, config.train.microbatches)
    sizes = mesh_lib.fill(config.mesh, len(jax.devices()), mesh_lib.num_slices(jax.devices()))
    rows = mesh_fit.batch_multiple(sizes, parts)
    return (
        dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, dtype="float32", parameter_dtype="float32"),
            data=dataclasses.replace(
                config.data,
                sequence_length=min(config.data.sequence_length, MAX_LENGTH),
                train=config.data.train[:1],
            ),
            train=dataclasses.replace(config.train, batch_size=rows, microbatches=parts),
            eval=dataclasses.replace(config.eval, batch_size=rows),
            optim=dataclasses.replace(config.optim, gradient_dtype="float32"),
        ),
        model,
    )


def _bench(config: Config, dtype: Any, model: settings.DecoderSettings, mesh: Mesh) -> Bench:
    length, num_rows = config.data.sequence_length, config.train.batch_size
    rng = np.random.default_rng(0)
    lengths = rng.integers(length // 16 + 2, length // 2, 8 * num_rows)
    filled = packing.plan_rows(lengths, length, seed=0, epoch=0)
    members = [filled.row(row) for row in range(num_rows)]
    made = [_conversation(rng, int(lengths[i]), model.num_tokens) for i in np.concatenate(members)]
    numbers = np.arange(len(made))
    packed = packing.PackPlan(numbers, np.cumsum([0, *map(len, members)]))

    def rows(plan: packing.PackPlan) -> BatchFields:
        """As many as the mesh splits evenly."""
        count = -(-plan.num_rows // num_rows) * num_rows
        chosen = [*range(plan.num_rows), *[packing.PADDING_ROW] * (count - plan.num_rows)]
        return packing.build_rows(lambda at: [made[i] for i in at], plan, chosen, length)

    single = mesh_lib.single_device_mesh()
    _, shapes, axes = state.abstract(model, "float32", "none")
    params = state.random_params(model, 0, state.shardings(shapes, axes, single))
    return Bench(
        config,
        dtype,
        model,
        mesh,
        jax.device_get(params),
        rows(packed),
        rows(packing.one_per_row(numbers)),
    )


def _conversation(rng: Any, length: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and weights of which about a third is supervised, the last one always."""
    ids = rng.integers(0, num_tokens, length).astype(np.int32)
    weights = (rng.random(length) < 0.3).astype(np.float32)
    weights[0], weights[-1] = 0, 1
    return ids, weights


def _built(bench: Bench, mesh: Mesh, rows: int, microbatches: int) -> MeshProgram:
    train = dataclasses.replace(bench.config.train, batch_size=rows, microbatches=microbatches)
    config = dataclasses.replace(bench.config, train=train)
    num_steps = bench.config.optim.warmup_steps + _STEPS
    return mesh_program.make_program(config, bench.model, num_steps, mesh)


def _gradients(bench: Bench, rows: BatchFields, mesh: Mesh, microbatches: int) -> Params:
    """The gradient over the weight of the batch, on the host of each process."""
    built = _built(bench, mesh, len(rows["tokens_BT"]), microbatches)

    def compute(params: Params, batch: Batch) -> Params:
        (sums, _), gradients = step.gradient_sums(built.recipe, params, batch)
        return jax.tree.map(lambda leaf: leaf / sums.weight, gradients)

    with jax.set_mesh(mesh):
        params = _placed(bench.params, built.placement.params)
        batch = _batch(rows, mesh)
        whole = jax.tree.map(lambda _: mesh_lib.sharding(mesh), params)
        return jax.device_get(jax.jit(compute, out_shardings=whole)(params, batch))


def _placed(tree: Any, placement: Any) -> Any:
    """Host arrays, the same on every process, as global ones."""

    def place(leaf: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, tree, placement)


def _batch(rows: BatchFields, mesh: Mesh) -> Batch:
    return Batch(**_placed(rows, dict.fromkeys(rows, over_mesh.batch_sharding(mesh))))


def _difference(expected: Any, actual: Any) -> float:
    """The greatest of all leaves, relative to the leaf's norm."""

    def relative(a: np.ndarray, b: np.ndarray) -> float:
        size = float(np.linalg.norm(np.ravel(a)))
        return float(np.linalg.norm(np.ravel(a) - np.ravel(b))) / (size or 1.0)

    return max(jax.tree.leaves(jax.tree.map(relative, expected, actual)))


def _hidden_of(bench: Bench) -> Callable[[BatchFields], np.ndarray]:
    built = _built(bench, bench.mesh, len(bench.rows["tokens_BT"]), 1)

    @jax.jit
    def compute(params: Params, batch: Batch) -> jax.Array:
        model = nnx.merge(built.recipe.graphdef, params)
        hidden_BTD = model.hidden(batch.tokens_BT, batch.segments_BT, batch.positions_BT)
        return mesh_lib.constrain(hidden_BTD, None, None, None)

    def hidden(rows: BatchFields) -> np.ndarray:
        with jax.set_mesh(bench.mesh):
            params = _placed(bench.params, built.placement.params)
            return np.asarray(compute(params, _batch(rows, bench.mesh)))

    return hidden


def _attention_back_ends(bench: Bench) -> list[str]:
    """All that work here, the run's own among them."""

    def works(name: str) -> bool:
        try:
            mesh_program.choose_back_ends(
                _with_attention(bench, name).config, bench.model, bench.mesh
            )
        except ConfigError:
            return False
        return True

    return [name for name in kind_of(bench.model).back_ends if works(name)]


def _with_attention(bench: Bench, name: str) -> Bench:
    """In the run's own dtype, which some kernels are for; what is not seen moves nothing in any."""
    model = dataclasses.replace(bench.config.model, attention=name, dtype=bench.dtype)
    return dataclasses.replace(bench, config=dataclasses.replace(bench.config, model=model))


def _isolation(bench: Bench, back_end: str) -> float:
    """How far the second conversation of each row moves when the first one changes."""
    segments = bench.rows["segments_BT"]
    return _moved(_with_attention(bench, back_end), segments == 1, segments > 1)


def _causality(bench: Bench) -> float:
    """How far the first half of each row moves when the second one changes."""
    shape = bench.rows["tokens_BT"].shape
    changed = np.broadcast_to(np.arange(shape[1]) >= shape[1] // 2, shape)
    return _moved(bench, changed, ~changed)


def _moved(bench: Bench, changed: np.ndarray, watched: np.ndarray) -> float:
    tokens = bench.rows["tokens_BT"]
    other = np.where(changed, (tokens + 1) % bench.model.num_tokens, tokens)
    before = bench.hidden(bench.rows)
    after = bench.hidden(bench.rows | {"tokens_BT": other.astype(np.int32)})
    assert not np.array_equal(before[changed], after[changed]), "nothing was changed"
    return float(np.abs(before[watched] - after[watched]).max() / np.abs(before).max())


def _resumption(bench: Bench, scratch: Path) -> float:
    """Between the parameters with and without a checkpoint in the middle."""
    rows, parts = bench.rows, bench.config.train.microbatches
    built = _built(bench, bench.mesh, len(rows["tokens_BT"]), parts)
    with jax.set_mesh(bench.mesh):
        batch = _batch(rows, bench.mesh)

        def train(current: TrainState, count: int) -> TrainState:
            for _ in range(count):
                current, _ = built.train_step(current, batch)
            return current

        def fresh() -> TrainState:
            params = _placed(bench.params, built.placement.params)
            return first_state.of_params(built, params)

        straight = train(fresh(), _STEPS)
        store = CheckpointStore(scratch, keep=1)
        half = train(fresh(), _STEPS // 2)
        store.save(_STEPS // 2, half.changing, Notes())
        store.wait()
        restored = store.restore(_STEPS // 2, mesh_program.abstract_state(built).changing)
        again = train(TrainState.of(restored, half.frozen), _STEPS - _STEPS // 2)
        spread = jax.jit(
            lambda a, b: jnp.stack(
                [
                    jnp.max(jnp.abs(x - y))
                    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
                ]
            ).max(),
            out_shardings=mesh_lib.sharding(bench.mesh),
        )
        return float(spread(straight.params, again.params))
