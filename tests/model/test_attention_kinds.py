"""Another kind of attention, with a cache of another shape, changes no file but its own."""

import ast
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

import jaxsft
from jaxsft.config import Mesh
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.devices import mesh
from jaxsft.model import parameter, state
from jaxsft.model.attention import choice
from jaxsft.model.attention.kinds import AttentionKind
from jaxsft.model.remat import Part
from jaxsft.plan import sizing, topology
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.training import mesh_program
from jaxsft.training.flops import recomputed_flops, training_flops
from tests.training.test_mesh_fit import config as config_of_a_run

MODEL = dataclasses.replace(tiny.SETTINGS, num_heads=1, num_kv_heads=1, head_dim=2)
D, LAYERS = MODEL.embed_dim, MODEL.num_layers


class RunningSum(nnx.Module):
    """Each position adds those before it up: one vector is all that a token leaves behind."""

    def __init__(self, s, *, rngs):
        self.out_DD = parameter.matrix(rngs, 0.1, (D, D), ("embed", "norm"))

    def __call__(self, x_BTD, context, cache, place):
        real_BT1 = (context.segments_BT > 0)[:, :, None]
        sum_BTD = jnp.cumsum(x_BTD * real_BT1, axis=1)
        if cache is not None:
            sum_BTD += cache[place.index][:, None]
            cache = cache.at[place.index].set(sum_BTD[:, -1])
        return parameter.product("BTD,DE->BTE", sum_BTD, self.out_DD), cache


RUNNING_SUM = AttentionKind(
    module=RunningSum,
    saved={},
    weights=lambda s: {Part.MIXING_OUT: D * D},
    mixing_products=lambda s, window, tokens, pairs: D * tokens,
    mixed_dims=lambda s: D,
    turned_dims=lambda s: 2,
    read_by_others=lambda s: D,
    pair_dims=lambda s: 0,
    empty_cache=lambda s, layers, rows, slots, dtype: jnp.zeros((layers, rows, D), dtype),
    back_ends=("jax",),
    with_back_end=lambda s, asked, run, device: (s, "jax", f"asked for by {asked}"),
    needed_pairs=lambda s, run, segment_length: 1.0,
)


@pytest.fixture
def running_sums(monkeypatch):
    monkeypatch.setattr(choice, "GROUPED_QUERIES", RUNNING_SUM)
    tiny._random_params.cache_clear()  # which knows a model by its settings
    yield tiny.host_params(MODEL)
    tiny._random_params.cache_clear()


def test_another_kind_has_its_own_cache(running_sums):
    prompts, graphdef = [[5, 6, 7], [8]], state.abstract(MODEL, "float32", "none")[0]
    answers = tiny.greedy(graphdef, running_sums, prompts, 4)
    for prompt, answer in zip(prompts, answers, strict=True):
        logits_BTV = tiny.logits(running_sums, [[*prompt, *answer]], model=MODEL)
        likeliest = np.argmax(logits_BTV[0, len(prompt) - 1 : -1], axis=-1)
        assert likeliest.tolist() == answer


def test_another_kind_has_its_own_operations(running_sums):
    counts = BatchCounts.of_segments(np.asarray([3, 4]), 8, (None,))
    mlp, tokens = D * MODEL.mlp_dim, 7
    assert training_flops(MODEL, counts, 0) == 6 * LAYERS * tokens * (D * D + 3 * mlp + D)
    assert recomputed_flops(MODEL, counts, "full") == 2 * LAYERS * tokens * (D * D + 2 * mlp + D)


def test_another_kind_has_its_own_back_ends(running_sums):
    run = config_of_a_run()
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, attention="jax"))
    decoder, choices = mesh_program.choose_back_ends(run, MODEL, mesh.make_mesh(run.mesh))
    assert decoder == MODEL and choices[0] == ("attention", "jax", "asked for by jax")


def test_another_kind_has_its_own_size(running_sums):
    run, rows = config_of_a_run(Mesh(fsdp=8)), BatchLoad(tokens=1, supervised=1, segment_length=8)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, remat="none"))
    here = topology.open_topology("cpu:8")
    guessed = sizing.guesser(run, MODEL, here, rows).guess(run)
    tokens = run.data.sequence_length  # a row on each of eight devices
    assert run.model.dtype == "bfloat16"
    assert guessed.kept_bytes == 2 * LAYERS * tokens * (D + D + 2 * MODEL.mlp_dim)


def test_the_rest_of_the_program_does_not_know_grouped_queries():
    package = Path(jaxsft.__path__[0])
    own = {"num_heads", "num_kv_heads", "head_dim", "attention_back_end", "k_LBSKH", "v_LBSKH"}
    rest = set(package.rglob("*.py"))
    for room in ("model/attention", "kernels/attention", "convert"):  # families are made of them
        rest -= set((package / room).rglob("*.py"))
    assert len(rest) > 150
    for file in sorted(rest):
        text, name = file.read_text(), file.relative_to(package)
        assert "grouped_queries" not in text, f"{name}: ask model/attention/choice.py for the kind"
        if not any(word in text for word in own):
            continue
        nodes = list(ast.walk(ast.parse(text)))
        used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not used & own, f"{name} knows {used & own}: ask the kind of attention"
