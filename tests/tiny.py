"""A tiny model, uneven batches, a training run on any mesh and a config file, for tests of laws."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.generation.generate import generate
from jaxsft.generation.sampling import Sampling
from jaxsft.model import settings, state
from jaxsft.training import optim, over_mesh, step
from jaxsft.training.batch import Batch
from jaxsft.training.loss_settings import loss_form
from jaxsft.training.schedule import make_schedule

VOCAB = 64
SETTINGS = settings.DecoderSettings(
    vocab_size=VOCAB,
    num_layers=2,
    embed_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=64,
    norm_eps=1e-5,
    rope=settings.Rope(theta=1e4),
    tied_embeddings=False,
    max_positions=128,
    init_stddev=0.1,
)
CONFIG_FILE = """
from jaxsft.config import Config, Data, Model, Optim, Source, Train


def get_config():
    return Config(
        model=Model(source="somewhere"),
        data=Data(train=(Source(path="train.jsonl"),), sequence_length=8),
        optim=Optim(peak_lr=1e-3, warmup_steps=0),
        train=Train(batch_size=2, steps=3),
    )
"""
# A large eps: Adam divides by the gradient's size, which would blow up the rounding of tiny ones.
OPTIM = config.Optim(peak_lr=1e-2, eps=1e-2, weight_decay=0.1, schedule="constant", warmup_steps=0)
ONE_DEVICE = config.Mesh(data=1, fsdp=1)


@functools.cache
def _random_params(model: settings.DecoderSettings) -> state.Params:
    _, shapes, _ = state.abstract(model, "float32", "none")
    one = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    return jax.tree.map(np.asarray, state.random_params(model, 0, one))


def host_params(model: settings.DecoderSettings = SETTINGS) -> state.Params:
    """Random parameters as numpy arrays, so that every mesh starts from the same bits."""
    return jax.tree.map(np.copy, _random_params(model))


def conversations(lengths, seed=0):
    """(ids, weights) of made-up conversations; about a third of the targets carry loss."""
    rng = np.random.default_rng(seed)
    made = []
    for length in lengths:
        ids = rng.integers(0, VOCAB, length).astype(np.int32)
        weights = (rng.random(length) < rng.choice([0.1, 0.6])).astype(np.float32)
        weights[0], weights[-1] = 0, 1
        made.append((ids, weights))
    return made


def uneven_batch(rows=16, length=32):
    """Rows whose supervised tokens number from 1 to most of the row: means of means differ."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, VOCAB, (rows, length)).astype(np.int32)
    targets = rng.integers(0, VOCAB, (rows, length)).astype(np.int32)
    segments = np.sort(rng.integers(1, 4, (rows, length)), axis=1).astype(np.int32)
    weights = np.zeros((rows, length), np.float32)
    for row in range(rows):
        weights[row, : 1 + (row * row) % (length - 4)] = 1.0 + row % 3
    segments[:, -3:], weights[:, -3:] = 0, 0
    starts = np.stack([np.searchsorted(row[:-3], row) for row in segments])
    positions = np.maximum(np.arange(length)[None] - starts, 0).astype(np.int32)
    return Batch(tokens, targets, segments, positions, weights)


@dataclasses.dataclass(frozen=True)
class Result:
    state: step.TrainState
    metrics: step.StepMetrics
    grad_sums: state.Params


def run_steps(
    batch,
    *,
    sizes=ONE_DEVICE,
    microbatches=1,
    num_steps=1,
    params=None,
    model=SETTINGS,
    optim_config=OPTIM,
    remat="none",
    dtype="float32",
    unroll_layers=1,
) -> Result:
    """The real step on a mesh of `sizes`; everything comes back as numpy."""
    program = _program(sizes, microbatches, model, optim_config, remat, dtype, unroll_layers)
    start = step.init_state(program.recipe, params or host_params(model))
    with jax.set_mesh(program.mesh):
        current = jax.device_put(start, program.placement)
        rows = jax.device_put(batch, over_mesh.batch_sharding(program.mesh))
        for _ in range(num_steps):
            current, metrics, grad_sums = program.train(current, rows)
        assert _shapes(current) == _shapes(start)
        return Result(*jax.device_get((current, metrics, grad_sums)))


def _shapes(tree):
    """Shape and dtype of each leaf, by its path: a step leaves them as they are."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (leaf.shape, leaf.dtype) for path, leaf in leaves}


@dataclasses.dataclass(frozen=True)
class _Program:
    recipe: step.Recipe
    mesh: jax.sharding.Mesh
    placement: step.TrainState
    train: Callable[
        [step.TrainState, Batch], tuple[step.TrainState, step.StepMetrics, state.Params]
    ]


@functools.cache
def _program(sizes, microbatches, model, optim_config, remat, dtype, unroll_layers) -> _Program:
    """Traced and compiled once for all tests that run it on batches of one shape."""
    devices = jax.devices() if sizes != ONE_DEVICE else jax.devices()[:1]
    over = mesh.make_mesh(sizes, devices)
    graphdef, shapes, axes = state.abstract(model, dtype, remat, unroll_layers=unroll_layers)
    recipe = step.Recipe(
        graphdef,
        optim.make_optimizer(optim_config),
        make_schedule(optim_config, 100),
        microbatches,
        optim_config.max_grad_norm,
        loss_form(model),
        optim_config.gradient_dtype,
    )
    placement = state.shardings(shapes, axes, over)
    state_placement = over_mesh.state_shardings(recipe, shapes, placement, over)

    def train(current, rows):
        """The step, and the gradients that it took inside."""
        with _kept_gradients() as kept:
            new_state, metrics = step.train_step(recipe, current, rows)
        (grad_sums,) = kept
        return new_state, metrics, grad_sums

    train_jit = jax.jit(train, out_shardings=(state_placement, None, placement))
    return _Program(recipe, over, state_placement, train_jit)


@contextlib.contextmanager
def _kept_gradients() -> Iterator[list[state.Params]]:
    """Inside, what each call of `step.gradient_sums` gives is added to a list: no second pass."""
    kept: list[state.Params] = []
    sums = step.gradient_sums

    def keeping(recipe, params, batch, teacher):
        totals, gradients = sums(recipe, params, batch, teacher)
        kept.append(gradients)
        return totals, gradients

    step.gradient_sums = keeping
    try:
        yield kept
    finally:
        step.gradient_sums = sums


def assert_trees_close(actual, expected, rtol=1e-5):
    """Equal to rtol; numbers that cancelled to nearly 0, to rtol of their leaf's typical size."""

    def compare(path, a, b):
        atol = rtol * np.sqrt(np.mean(np.square(b)))
        np.testing.assert_allclose(a, b, rtol, atol, err_msg=jax.tree_util.keystr(path))

    jax.tree.map_with_path(compare, actual, expected)


def assert_trees_equal(actual, expected):
    def compare(path, a, b):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path), strict=True)

    jax.tree.map_with_path(compare, actual, expected)


def logits(params, tokens, segments=None, positions=None, model=SETTINGS):
    return _logits(model, params, *map(as_int32, (tokens, segments, positions)))


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, tokens, segments, positions):
    graphdef, _, _ = state.abstract(model, "float32", "none")
    return nnx.merge(graphdef, params)(tokens, segments, positions)


def greedy(graphdef, params, prompts, count):
    """The `count` likeliest tokens after each prompt, one by one."""
    sampling = Sampling(max_new_tokens=count)
    return [answer.ids for answer in generate(graphdef, params, prompts, sampling, stop_ids=[])]


def as_int32(array):
    return None if array is None else jnp.asarray(array, jnp.int32)
