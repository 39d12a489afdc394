"""What the laws are measured with: a small model of a run's shape, random weights, made-up rows."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxsft.config import Config
from jaxsft.data.pack import packing
from jaxsft.data.pack.reweight import Reweighting
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.model import settings, state
from jaxsft.model.adapter import SUFFIX, B
from jaxsft.model.adapter_plan import first_values, without_adapters
from jaxsft.model.state import Params
from jaxsft.training import mesh_fit, mesh_program, parameters

MAX_LAYERS, MAX_LENGTH = 2, 1024
_BLOCK = 128  # queries of a device's part of a row that kernels want a multiple of
_FEW_SEGMENTS = 2
BatchFields = dict[str, np.ndarray]  # the fields of a Batch


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the laws are measured with."""

    config: Config  # in float32
    run_dtype: str
    run_back_ends: tuple[str, ...]  # of attention, that the run may take
    model: settings.DecoderSettings
    mesh: Mesh
    params: Params  # on the host
    rows: BatchFields  # packed, on the host
    alone: BatchFields  # the same conversations, one a row

    def as_run(self, attention: str) -> "Bench":
        """In the run's own dtype, which some kernels are for, with a back end of attention."""
        model = dataclasses.replace(self.config.model, attention=attention, dtype=self.run_dtype)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, model=model))

    @property
    def ran_with(self) -> str:
        """Dtype, back ends of attention and experts, and how layers are run."""
        decoder, choices = mesh_program.choose_back_ends(self.config, self.model, self.mesh)
        names = [which for what, which, _ in choices if what != "loss"]
        way = mesh_program.ways(self.config, decoder, self.mesh)[0]
        return ", ".join([self.config.model.dtype, *names, way.words])


def make_bench(config: Config, base: settings.DecoderSettings) -> Bench:
    """That of a run.

    Raises:
        ConfigError: a mesh that doesn't fit the devices, the model or the batch; a back end that
            the run can't have.
    """
    small, model = _small(config, base)
    mesh = mesh_program.checked_mesh(small, model)
    own = _back_ends(config, base, mesh)
    single = mesh_lib.single_device_mesh()
    params = _random_params(small, model, single)
    packed, alone = _made_up_rows(small, model)
    return Bench(
        _with_attention_of_float32(small, model, mesh),
        config.model.dtype,
        own,
        model,
        mesh,
        jax.device_get(params),
        packed,
        alone,
    )


def _random_params(small: Config, model: settings.DecoderSettings, single: Mesh) -> Params:
    """Of the model, and of the run's adapters, which change something here."""
    declared = parameters.declare(small, model)
    placement = state.shardings(declared.shapes, declared.axes, single)
    own = (without_adapters(tree) for tree in (placement, declared.shapes))
    params = state.random_params(model, 0, *own)
    adapters = declared.adapters
    if adapters is None:
        return params
    made = first_values(adapters.specs, adapters.weights, params, placement, seed=0)
    return jax.tree.map_with_path(_changed_b, made)


def _changed_b(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    """The leaf; an adapter's B, which begins at zero, at random: A has no gradient else."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if not name.endswith(f"{SUFFIX}.{B}"):
        return leaf
    return 0.02 * jax.random.normal(jax.random.key(len(name)), leaf.shape, leaf.dtype)


def _back_ends(config: Config, base: settings.DecoderSettings, mesh: Mesh) -> tuple[str, ...]:
    """Of attention, for the run's own shapes.

    Its data would say how many segments a row has, by which the choice may differ: the back ends
    for many and for few.
    """
    found = [
        which
        for segments in (None, _FEW_SEGMENTS)
        for what, which, _ in mesh_program.choose_back_ends(config, base, mesh, segments)[1]
        if what == "attention"
    ]
    return tuple(dict.fromkeys(found))


def _with_attention_of_float32(
    config: Config, model: settings.DecoderSettings, mesh: Mesh
) -> Config:
    """The same; if the back end that it names is not for float32, with one that is."""
    try:
        mesh_program.choose_back_ends(config, model, mesh)
    except ConfigError:
        automatic = dataclasses.replace(config.model, attention="auto")
        return dataclasses.replace(config, model=automatic)
    return config


def _small(
    config: Config, base: settings.DecoderSettings
) -> tuple[Config, settings.DecoderSettings]:
    """Few layers, of each kind one; float32; short rows; the run's micro-batches."""
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
    longest = max(MAX_LENGTH, _BLOCK * mesh_lib.parts("sequence", sizes))
    return (
        dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, dtype="float32", parameter_dtype="float32"),
            data=dataclasses.replace(
                config.data,
                sequence_length=min(config.data.sequence_length, longest),
                train=config.data.train[:1],
            ),
            train=dataclasses.replace(config.train, batch_size=rows, microbatches=parts),
            eval=dataclasses.replace(config.eval, batch_size=rows),
            optim=dataclasses.replace(config.optim, gradient_dtype="float32"),
            loss=dataclasses.replace(config.loss, source_weights={}),
        ),
        model,
    )


def _made_up_rows(
    config: Config, model: settings.DecoderSettings
) -> tuple[BatchFields, BatchFields]:
    """Packed, and the same conversations one a row."""
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
        return packing.build_rows(
            lambda at: [made[i] for i in at],
            plan,
            chosen,
            length,
            reweighting=Reweighting.of(config.loss, config.data.train, np.zeros(len(made), int)),
            numbered=mesh_program.noise_seed(config) is not None,
        )

    return rows(packed), rows(packing.one_per_row(numbers))


def _conversation(rng: Any, length: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and weights of which about a third is supervised, the last one always."""
    ids = rng.integers(0, num_tokens, length).astype(np.int32)
    weights = (rng.random(length) < 0.3).astype(np.float32)
    weights[0], weights[-1] = 0, 1
    return ids, weights
