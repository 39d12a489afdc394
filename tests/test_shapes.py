"""Arrays at the borders of rooms are what their names say; a message names one that is not."""

import dataclasses
import functools
import importlib
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxsft.data.pack import packing
from jaxsft.kernels.attention.attend import BACK_ENDS, attend
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Visibility
from jaxsft.kernels.experts.gated_mlps import Experts, mix
from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.form import LossForm, Targets
from jaxsft.model import state
from jaxsft.model.attention.kinds import CacheSlots
from jaxsft.model.moe import RouterStats
from jaxsft.model.transformer import Decoder
from jaxsft.training import optim, step
from jaxsft.training.loss import loss_sums
from tests import shapes
from tests.shapes import ShapeError, checked, letters_of

B, T, S, N, K, H, D, V, E, F, X = 2, 6, 5, 4, 2, 8, 12, 16, 3, 10, 2


def zeros(*shape, dtype=jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


ints = functools.partial(zeros, dtype=jnp.int32)


def traced(function, *static):
    """The function's shapes for shapes: nothing is compiled and nothing runs."""
    return lambda *arrays: jax.eval_shape(lambda *inner: function(*inner, *static), *arrays)


def in_attention(q=(B, T, N, H), k=(B, S, K, H), v=(B, S, K, H), q_segments=(B, T), s=(B, S)):
    kv = KeysAndValues(zeros(*k), zeros(*v))
    visibility = Visibility(ints(*q_segments), ints(*s))
    return traced(attend, AttentionForm(scale=1.0))(zeros(*q), kv, visibility)


def in_loss(hidden=(B, T, D), head=(V, D), targets=(B, T), weights=(B, T), dtype=jnp.int32):
    to = Targets(ints(*targets).update(dtype=dtype), zeros(*weights))
    form = LossForm(vocab_size=V, tied=True)
    return traced(cross_entropy, form)(zeros(*hidden), zeros(*head), to)


def in_experts(x=(B, T, D), shares=(B, T, X), up=(E, D, F), down=(E, F, D)):
    experts = Experts(zeros(E, D, F), zeros(*up), zeros(*down))
    run = traced(mix, lambda gate, up: gate * up, "tiled")
    return run(zeros(*x), ints(B, T, X), zeros(*shares), experts)


def of_model(run, *arrays):
    graphdef, params, _ = state.abstract(tiny.SETTINGS, "float32", "none")
    return jax.eval_shape(lambda p, *a: run(nnx.merge(graphdef, p), *a), params, *arrays)


def in_decoder(segments=(B, T), positions=(B, T)):
    arrays = ints(B, T), ints(*segments), ints(*positions)
    return of_model(lambda model, *inner: model(*inner), *arrays)


def in_training(change=lambda batch: batch, function=loss_sums):
    graphdef, params, _ = state.abstract(tiny.SETTINGS, "float32", "none")
    batch = change(tiny.uneven_batch(4, T))
    form = LossForm(vocab_size=tiny.VOCAB)
    if function is loss_sums:
        return jax.eval_shape(lambda p, b: loss_sums(graphdef, p, b, form), params, batch)
    recipe = step.Recipe(graphdef, optim.make_optimizer(tiny.OPTIM), lambda at: 1e-3, 1, 1.0, form)
    start = jax.eval_shape(functools.partial(step.init_state, recipe), params)
    return jax.eval_shape(functools.partial(step.train_step, recipe), start, batch)


def in_packing(labels_N=None):
    example = np.arange(3, dtype=np.int32), np.ones(3, np.float32)
    plan = packing.one_per_row(np.array([3, 3]))
    return packing.build_rows(lambda at: [example] * len(at), plan, [0, 1], T, labels_N)


def in_cache(segments=(B, T + 1), rows=B):
    cache = of_model(lambda model: model.empty_cache(rows, T + 1))
    slots = CacheSlots(ints(*segments), ints(), ints(B))
    cache = dataclasses.replace(cache, slots=slots)
    return of_model(Decoder.extend, ints(B, T), ints(B, T), ints(B, T), cache)


def test_arrays_as_their_names_say_pass():
    assert in_attention().shape == (B, T, N, H)
    assert in_experts().shape == (B, T, D)
    assert in_decoder().shape == (B, T, tiny.VOCAB)
    assert in_loss()[0].nll.shape == in_training(function=step.train_step)[1].grad_norm.shape == ()
    assert in_packing(np.zeros(2))["sources_BT"].shape == (2, T)
    assert in_cache()[0].shape == (B, tiny.VOCAB)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: in_attention(k=(B, S, H, K)),
            "kernels.attention.attend.attend: kv.k_BSKH (2, 5, 8, 2) has H=2, but q_BTNH has H=8",
        ),
        (lambda: in_attention(q=(B, N, T, H)), "visibility.q_segments_BT (2, 6) has T=6, but q_"),
        (lambda: in_attention(s=(1, S)), "visibility.kv_segments_BS (1, 5) has B=1, but q_BTNH"),
        (lambda: in_loss(head=(D, V)), "cross_entropy: head (12, 16) has D=16, but hidden_BTD"),
        (lambda: in_loss(weights=(B, 1)), "targets.weights_BT (2, 1) has T=1, but hidden_BTD has"),
        (lambda: in_loss(dtype=jnp.float32), "targets.targets_BT (2, 6) has dtype float32, not"),
        (lambda: in_experts(down=(E, D, F)), "mix: experts.down_EFD (3, 12, 10) has F=12, but exp"),
        (lambda: in_experts(shares=(B, T, 1)), "mix: shares_BTX (2, 6, 1) has X=1, but chosen_BTX"),
        (lambda: in_decoder(segments=(1, T)), "__call__: segments_BT (1, 6) has B=1, but tokens_"),
        (lambda: in_decoder(positions=(T, B)), "__call__: positions_BT (6, 2) has B=6, but tokens"),
        (lambda: in_cache((T, B)), "extend: cache.slots.segments_BS (6, 2) has B=6, but tokens_BT"),
        (
            lambda: in_cache(rows=1),
            "extend: cache.of_stacks.dense_0.k_LBSKH (2, 1, 7, 2, 8) has B=1",
        ),
        (
            lambda: in_training(lambda b: dataclasses.replace(b, weights_BT=b.weights_BT.T)),
            "training.loss.loss_sums: batch.weights_BT (6, 4) has B=6, but batch.tokens_BT has B=4",
        ),
        (
            lambda: in_training(
                lambda b: dataclasses.replace(b, segments_BT=b.segments_BT.astype(np.float32)),
                step.train_step,
            ),
            "train_step: batch.segments_BT (4, 6) has dtype float32, not int32",
        ),
        (lambda: in_packing(np.zeros((2, 1))), "build_rows: labels_N (2, 1) has 2 dimensions, not"),
    ],
)
def test_a_wrong_array_at_a_border_is_named(call, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("name", "letters", "message"),
    [
        ("x_BT", "BT", None),
        ("x_xT", "xT", None),
        ("x_BT", "TB", "result (2, 3) has T=2, but x_BT has T=3"),
        ("x_BT", "BT1", "result (2, 3) has 2 dimensions, not 'BT1'"),
        ("x_B1", "BT", "x_B1 (2, 3) has 1=3"),
        ("x_BB", "BT", "x_BB (2, 3) has B=3, but x_BB has B=2"),
        ("x_xBT1", "BT", "x_xBT1 (2, 3) has 2 dimensions, not 'BT1'"),
        ("total", "BT", "total (2, 3) has 2 dimensions, not ''"),
    ],
)
def test_an_array_has_the_dimensions_of_its_name(name, letters, message):
    call, array = shapes.Call("f"), np.zeros((2, 3))

    def look():
        call.look(name, array)
        call.look_at_result(letters, array)

    if message is None:
        look()
    else:
        with pytest.raises(ShapeError, match=re.escape(f"f: {message}")):
            look()


def test_a_name_in_front_gives_the_first_dimensions_of_all_arrays():
    layers, experts = 3, 4
    stats = RouterStats(zeros(layers, experts), zeros(layers, experts), zeros(layers))
    shapes.Call("f").look("routing_L", stats)
    with pytest.raises(ShapeError, match=r"f: routing\.assignments_E \(3, 4\) has 2 dim"):
        shapes.Call("f").look("routing", stats)


def test_parameters_have_the_dimensions_of_their_names():
    """Those of layers are stacked; a module's F and N are its own, D is the whole model's."""
    layer = {"up_DF": zeros(2, D, F), "k_norm": {"scale_NH": zeros(2, K, H)}}
    params = {"embedding_VD": zeros(V, D), "layers": {"mlp": layer, "q_DNH": zeros(2, D, N, H)}}
    shapes.Call("f").look("params", params)
    layer["up_DF"] = zeros(2, F, D)
    with pytest.raises(ShapeError, match=r"params\.layers\.mlp\.up_DF \(2, 10, 12\) has D=10, but"):
        shapes.Call("f").look("params", params)


def test_a_function_is_looked_at_while_it_is_traced_and_stays_what_it_was():
    def scaled(x_BT, factor: int, offset_T=0):
        """Its own text."""
        looked.append(factor)
        return factor * x_BT + offset_T

    looked = []
    same = checked(scaled, "f")
    assert (same.__name__, same.__doc__) == ("scaled", "Its own text.")
    run = jax.jit(same, static_argnames="factor")
    for factor in (2, 3, 2, 3):
        run(np.ones((2, 3)), factor=factor)
    assert looked == [2, 3]
    with pytest.raises(ShapeError, match="f: offset_T"):
        run(np.ones((2, 3)), 2, offset_T=np.ones(2))
    with pytest.raises(TypeError, match="factor"):
        same(np.ones((2, 3)))
    assert checked(letters_of, "f") is letters_of  # no array goes in


def test_every_border_is_looked_at():
    for name in shapes.RESULTS.keys() | shapes.ANY_DIMS.keys():
        importlib.import_module("jaxsft." + re.split(r"\.[A-Z_]|\.[a-z_0-9]+$", name)[0])
    assert shapes.RESULTS.keys() | shapes.ANY_DIMS.keys() <= shapes.WRAPPED
    assert shapes.WRAPPED >= {
        *("training.step.train_step", "training.over_mesh.TrainStep.__call__"),
        *("training.loss.loss_sums", "kernels.loss.cross_entropy.cross_entropy"),
        *("kernels.loss.chunks.sums_and_gradients", "model.attention.grouped_queries.with_tokens"),
    }
    assert all(inspect.unwrap(back_end) is not back_end for back_end in BACK_ENDS.values())
