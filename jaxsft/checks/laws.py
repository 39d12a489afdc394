"""The laws of training, measured with a run's own model shape, mesh and back ends on its hardware.

Random weights and rows; few layers. In float32 with full precision of products, so that what
differs by more than rounding is a fault: of this program, of the compiler, or of a device. Those
that packing and the mesh are held to once more in the run's dtype, with the attention that it takes
in that, where rounding itself is measured.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsft.checks.bench import BatchFields, Bench, make_bench
from jaxsft.config import Config
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.model import settings
from jaxsft.model.attention.choice import kind_of
from jaxsft.model.state import Params, model_of, split
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.training import first_state, mesh_program, over_mesh, step
from jaxsft.training.batch import Batch
from jaxsft.training.mesh_program import MeshProgram
from jaxsft.training.schedule import shortest_run
from jaxsft.training.step import TrainState
from jaxsft.training.teacher import Teacher

ALLOWED = 1e-4  # relative; sums in another order differ by about 1e-6, a fault by 1e-2 and more
UNMOVED = 1e-6  # relative; experts may take a token in another place of their batch
_BFLOAT16_STEP = 2.0**-7  # relative; by which that other place may round
_STEPS = 4
# Of a dtype's rounding, which two sound gradients may be apart: each lies about one away from that
# in float32, on any side, and a kernel rounds once more inside what plain attention keeps wide.
_ROUNDINGS = 4
_PLAIN = "xla"  # attention that is XLA's own products, the reference of all others


@dataclasses.dataclass(frozen=True)
class Check:
    law: str
    ran_with: str  # dtype, back ends, how layers were run
    difference: float  # relative, by norms or by the greatest value
    allowed: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed  # false for NaN


def measured(
    config: Config,
    base: settings.DecoderSettings,
    scratch: Path,
    teacher: Teacher | None = None,
) -> Iterator[Check]:
    """Each law as soon as it is measured.

    Args:
        scratch: a directory that all processes see, for a checkpoint.
        teacher: of config.distil.

    Raises:
        ConfigError: a mesh that doesn't fit the devices, the model or the batch; a back end that
            the run can't have.
    """
    bench = make_bench(config, base, teacher)
    with jax.default_matmul_precision("highest"):
        exact = _gradients(bench, bench.rows, mesh_lib.single_device_mesh(), 1)
        yield from _of_gradients(bench, exact)
        yield from _of_visibility(bench)
        law = f"{_STEPS} steps with a restart: those without"
        yield Check(law, bench.ran_with, _resumption(bench, scratch), 0.0)
    if bench.run_dtype != bench.config.model.dtype:
        for name in bench.run_back_ends:
            yield from in_run_dtype(bench.as_run(name), exact)


def _of_gradients(bench: Bench, exact: Params) -> Iterator[Check]:
    compare = functools.partial(_difference, exact)
    parts = bench.config.train.microbatches
    found: list[tuple[str, Callable[[], float]]] = [
        (
            f"{parts} micro-batches: the gradient of one",
            lambda: compare(_gradients(bench, bench.rows, bench.mesh, parts)),
        ),
        (_mesh_law(bench), lambda: compare(_gradients(bench, bench.rows, bench.mesh, 1))),
        (
            _PACKING_LAW,
            lambda: compare(_gradients(bench, bench.alone, mesh_lib.single_device_mesh(), 1)),
        ),
    ]
    for law, measure in found:
        yield Check(law, bench.ran_with, measure(), ALLOWED)


_PACKING_LAW = "packed rows: the gradient of each conversation alone"


def _mesh_law(bench: Bench) -> str:
    return f"mesh {mesh_lib.describe(bench.mesh)}: the gradient of one device"


def _of_visibility(bench: Bench) -> Iterator[Check]:
    for name in _attention_back_ends(bench):
        law = f"attention by {name}: a conversation does not see its neighbours"
        own = bench.as_run(name)
        rounded = bench.model.moe is not None and bench.run_dtype == "bfloat16"
        allowed = _BFLOAT16_STEP if rounded else UNMOVED
        yield Check(law, own.ran_with, _isolation(own), allowed)
    law = "a token does not see later ones"
    yield Check(law, bench.ran_with, _causality(bench), UNMOVED)


def in_run_dtype(bench: Bench, exact: Params) -> Iterator[Check]:
    """Laws of the gradients of a bench `as_run`, each judged by the parameter that is worst.

    What may differ is measured: how far rounding takes the gradient from that in float32 where
    attention is plain, for each parameter by itself.

    Args:
        exact: the gradient of the packed rows in float32.
    """
    name, single = bench.config.model.attention, mesh_lib.single_device_mesh()
    packed = _gradients(bench, bench.rows, single, 1)
    plain = packed if name == _PLAIN else _gradients(bench.as_run(_PLAIN), bench.rows, single, 1)
    rounding = jax.tree.leaves(_relative(exact, plain))

    def check(law: str, expected: Params, actual: Params) -> Check:
        found = jax.tree.leaves(_relative(expected, actual))
        allowed = [_ROUNDINGS * max(one, _BFLOAT16_STEP / 2) for one in rounding]
        worst = int(np.argmax(np.divide(found, allowed)))  # the first NaN where there is one
        return Check(law, bench.ran_with, found[worst], allowed[worst])

    if name != _PLAIN:
        yield check(f"attention by {name}: the gradient in float32", exact, packed)
    yield check(_mesh_law(bench), packed, _gradients(bench, bench.rows, bench.mesh, 1))
    yield check(_PACKING_LAW, packed, _gradients(bench, bench.alone, single, 1))


def _built(bench: Bench, mesh: Mesh, rows: int, microbatches: int) -> MeshProgram:
    train = dataclasses.replace(bench.config.train, batch_size=rows, microbatches=microbatches)
    config = dataclasses.replace(bench.config, train=train)
    num_steps = shortest_run(bench.config.optim) + _STEPS
    return mesh_program.make_program(config, bench.model, num_steps, mesh, teacher=bench.teacher)


def _gradients(bench: Bench, rows: BatchFields, mesh: Mesh, microbatches: int) -> Params:
    """The gradient over the weight of the batch, on the host of each process."""
    built = _built(bench, mesh, len(rows["tokens_BT"]), microbatches)

    def compute(params: Params, teacher: Params | None, batch: Batch) -> Params:
        batch = step.with_keys(built.recipe, batch, 0)
        (sums, _), gradients = step.gradient_sums(built.recipe, params, batch, teacher)
        return jax.tree.map(lambda leaf: leaf / sums.weight, gradients)

    with jax.set_mesh(mesh):
        params = _placed(bench.params, built.placement.params)
        teacher = _placed(bench.teacher_params, built.placement.teacher)
        batch = _batch(rows, mesh)
        trained, _ = split(params, built.recipe.frozen)
        whole = jax.tree.map(lambda _: mesh_lib.sharding(mesh), trained)
        return jax.device_get(jax.jit(compute, out_shardings=whole)(params, teacher, batch))


def _placed(tree: Any, placement: Any) -> Any:
    """Host arrays, the same on every process, as global ones."""

    def place(leaf: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, tree, placement)


def _batch(rows: BatchFields, mesh: Mesh) -> Batch:
    return Batch(**_placed(rows, dict.fromkeys(rows, over_mesh.batch_sharding(mesh))))


def _difference(expected: Any, actual: Any) -> float:
    """The greatest of all leaves."""
    return max(jax.tree.leaves(_relative(expected, actual)))


def _relative(expected: Any, actual: Any) -> Any:
    """The norm of each leaf's difference over the leaf's norm."""

    def relative(a: np.ndarray, b: np.ndarray) -> float:
        size = float(np.linalg.norm(np.ravel(a)))
        return float(np.linalg.norm(np.ravel(a) - np.ravel(b))) / (size or 1.0)

    return jax.tree.map(relative, expected, actual)


def _hidden_of(bench: Bench) -> Callable[[BatchFields], np.ndarray]:
    """The last layer's output."""
    built = _built(bench, bench.mesh, len(bench.rows["tokens_BT"]), 1)

    @jax.jit
    def compute(params: Params, batch: Batch) -> jax.Array:
        model = model_of(built.recipe.graphdef, params)
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
            mesh_program.choose_back_ends(bench.as_run(name).config, bench.model, bench.mesh)
        except ConfigError:
            return False
        return True

    return [name for name in kind_of(bench.model).back_ends if works(name)]


def _isolation(bench: Bench) -> float:
    """How far the second conversation of each row moves when the first one changes."""
    segments = bench.rows["segments_BT"]
    return _moved(bench, segments == 1, segments > 1)


def _causality(bench: Bench) -> float:
    """How far the first half of each row moves when the second one changes."""
    shape = bench.rows["tokens_BT"].shape
    changed = np.broadcast_to(np.arange(shape[1]) >= shape[1] // 2, shape)
    return _moved(bench, changed, ~changed)


def _moved(bench: Bench, changed: np.ndarray, watched: np.ndarray) -> float:
    tokens = bench.rows["tokens_BT"]
    other = np.where(changed, (tokens + 1) % bench.model.num_tokens, tokens)
    hidden = _hidden_of(bench)
    before = hidden(bench.rows)
    after = hidden(bench.rows | {"tokens_BT": other.astype(np.int32)})
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
            teacher = _placed(bench.teacher_params, built.placement.teacher)
            return dataclasses.replace(first_state.of_params(built, params), teacher=teacher)

        straight = train(fresh(), _STEPS)
        store = CheckpointStore(scratch, keep=1)
        half = train(fresh(), _STEPS // 2)
        store.save(_STEPS // 2, half.changing, Notes())
        store.wait()
        restored = store.restore(_STEPS // 2, mesh_program.abstract_state(built).changing)
        again = train(TrainState.of(restored, half.frozen, half.teacher), _STEPS - _STEPS // 2)
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
