"""Rules of config.optim: what they cover, what stays as it was bit for bit, what trains at all."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.config import Group
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import CheckpointError, ConfigError
from jaxsft.model import state
from jaxsft.plan import sizing
from jaxsft.rundir import identity
from jaxsft.training import first_state, groups, mesh_fit, mesh_program, optim, over_mesh
from tests.training.optimizers import updates
from tests.training.test_mesh_fit import config as config_of_a_run

LAYERS = tiny.SETTINGS.num_layers
SHAPES = state.abstract(tiny.SETTINGS, "float32", "none")[1]


def asked(model=(), **fields) -> config.Config:
    one = config_of_a_run()
    fields = {"peak_lr": 1e-2, "weight_decay": 0.1, "warmup_steps": 0} | fields
    return dataclasses.replace(
        one,
        optim=config.Optim(**fields),
        model=dataclasses.replace(one.model, dtype="float32", **dict(model)),
    )


def found(**fields):
    return groups.treatments(asked(**fields), tiny.SETTINGS, SHAPES)


def test_the_first_rule_that_matches_decides_and_the_others_have_the_default():
    rules = (
        Group(pattern="q_*", lr_factor=3.0),
        Group(pattern="attention", lr_factor=2.0, weight_decay=0.5),
        Group(pattern="norms", weight_decay=0.2),
        Group(pattern="head", frozen=True),
    )
    of = found(groups=rules)
    assert (of["layers.attention.q_DNH"].lr_factor, of["layers.attention.k_DKH"].lr_factor) == (
        3,
        2,
    )
    assert of["layers.attention.q_DNH"].weight_decay == 0.1
    assert of["layers.attention.k_DKH"].weight_decay == 0.5
    assert of["final_norm.scale_D"].weight_decay == 0.2  # asked for by name
    assert of["embedding_VD"].lr_factor == 1 and of["embedding_VD"].weight_decay == 0.1
    assert groups.frozen_names(of) == {"head_DV"}
    assert found()["final_norm.scale_D"].weight_decay == 0


def test_a_layers_rate_falls_with_the_layers_above_it():
    of = found(layer_decay=0.5, groups=(Group(pattern="mlp", lr_factor=10.0),))
    np.testing.assert_allclose(of["layers.attention.q_DNH"].lr_factor.ravel(), [0.5, 1])
    np.testing.assert_allclose(of["layers.mlp.up_DF"].lr_factor.ravel(), [5, 10])
    assert of["layers.mlp.up_DF"].lr_factor.shape == (2, 1, 1)
    assert of["embedding_VD"].lr_factor == 0.25
    assert of["head_DV"].lr_factor == of["final_norm.scale_D"].lr_factor == 1


def test_layers_are_counted_in_the_model_not_in_their_stack():
    model = dataclasses.replace(updates.MODEL, num_layers=4, dense_layers=(0, 2))
    shapes = state.abstract(model, "float32", "none")[1]
    of = groups.treatments(asked(layer_decay=0.5), model, shapes)
    np.testing.assert_allclose(of["layers.dense_0.mlp.up_DF"].lr_factor.ravel(), [1 / 8, 1 / 2])
    np.testing.assert_allclose(of["layers.experts_1.moe.up_EDF"].lr_factor.ravel(), [1 / 4, 1])
    of = groups.treatments(asked(last_layers=1), model, shapes)
    trained = {name for name, one in of.items() if not one.frozen}
    assert trained and all(name.startswith("layers.experts_1.") for name in trained)
    assert of["layers.experts_1.moe.up_EDF"].trained.ravel().tolist() == [False, True]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        (
            {"groups": (Group(pattern="experts"),)},
            r"groups\[0\].pattern=experts: matches nothing; there are embedding, .*final_norm",
        ),
        (
            {"groups": (Group(pattern="mlp"), Group(pattern="layers.mlp.*"))},
            r"groups\[1\].pattern=layers.mlp.\*: an earlier rule has all",
        ),
        (
            {"groups": (Group(pattern="*", rows="new_tokens"),)},
            r"rows=new_tokens, but final_norm.scale_D has no row",
        ),
        ({"groups": (Group(pattern="*", frozen=True),)}, r"pattern='\*'.*nothing is left to train"),
        ({"last_layers": 3}, "last_layers=3: the model has 2 layers"),
        (
            {
                "groups": (Group(pattern="embedding", frozen=True),),
                "model": {"dead_rows": "repair"},
            },
            "dead_rows=repair: makes rows of embedding_VD, which config.optim freezes",
        ),
        (
            {"last_layers": 1, "model": {"new_tokens": ("<new>",)}},
            r"new_tokens=\('<new>',\): makes rows of embedding_VD",
        ),
    ],
)
def test_a_rule_that_means_nothing_here_is_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        found(**fields)


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ({"pattern": " "}, r"groups\[0\].pattern=' ': expected"),
        ({"pattern": "mlp", "lr_factor": -1.0}, r"groups\[0\].lr_factor=-1.0: must be finite"),
        ({"pattern": "mlp", "weight_decay": -1.0}, r"groups\[0\].weight_decay=-1.0: must be"),
        ({"pattern": "mlp", "frozen": True, "lr_factor": 2.0}, "frozen=True and lr_factor=2.0"),
        ({"pattern": "head", "rows": "new_tokens"}, "rows=new_tokens: config.model.new_tokens"),
    ],
)
def test_a_rule_that_could_mean_nothing_anywhere_is_refused(rule, match):
    with pytest.raises(ConfigError, match=match):
        config.validate(asked(groups=(Group(**rule),)))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"layer_decay": 1.5}, r"layer_decay=1.5: must lie in \(0, 1\]"),
        ({"last_layers": 0}, "last_layers=0: must be finite and greater than 0"),
    ],
)
def test_depths_out_of_range_are_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        config.validate(asked(**fields))


@pytest.mark.parametrize("name", ["adamw", *updates.NEW])
def test_rows_that_do_not_train_keep_their_bits_whatever_the_optimizer(name):
    """Layer 0 of 2, and all rows of the embedding but two; weight decay and momentum too."""
    rules = (Group(pattern="embedding", rows="new_tokens"),)
    one = dataclasses.replace(
        asked(groups=rules, last_layers=1),
        optim=updates.optim_config(name, groups=rules, last_layers=1),
    )
    shapes = state.abstract(updates.MODEL, "float32", "none")[1]
    of = groups.treatments(one, updates.MODEL, shapes, new_ids=(3, 60))
    before = updates.fresh(optim.make_optimizer(one.optim, of.__getitem__))
    after = before.after(1, 2)
    changed = jax.tree.map(
        lambda a, b: np.asarray(a).view(np.uint32) != np.asarray(b).view(np.uint32),
        *(before.params, after.params),
    )
    rows = np.flatnonzero(changed.pop("embedding_VD").any(axis=1))
    assert rows.tolist() == [3, 60]
    for leaf in jax.tree.leaves(changed):
        assert leaf[1].any() and not leaf[0].any()
    for moment in jax.tree.leaves(after.opt_state):
        if moment.ndim and moment.shape[0] == LAYERS:
            assert not np.any(np.asarray(moment)[0] > 1e-25)  # Adafactor adds 1e-30 to a square


def test_a_factor_is_of_the_whole_move_decay_too():
    rules = (Group(pattern="attention", lr_factor=0.5), Group(pattern="router", weight_decay=0.7))
    one = asked(groups=rules, layer_decay=0.1)
    shapes = state.abstract(updates.MODEL, "float32", "none")[1]
    of = groups.treatments(one, updates.MODEL, shapes)
    plain = updates.fresh(optim.make_optimizer(updates.optim_config())).after(1)
    ruled = updates.fresh(
        optim.make_optimizer(updates.optim_config(), of.__getitem__),
    ).after(1)
    start = updates.fresh(plain.optimizer).params

    def moved(by, *path):
        leaf, first = by.params, start
        for part in path:
            leaf, first = leaf[part], first[part]
        return np.asarray(leaf) - np.asarray(first)

    q = ("layers", "attention", "q_DNH")
    each = np.array([0.05, 0.5], np.float32).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(moved(ruled, *q), each * moved(plain, *q), rtol=1e-4, atol=1e-7)
    router = ("layers", "moe", "router_DE")
    less = moved(plain, *router)[1] - moved(ruled, *router)[1]
    np.testing.assert_allclose(
        less, updates.RATE * 0.6 * np.asarray(start["layers"]["moe"]["router_DE"])[1], atol=1e-6
    )


def run(sizes, one):
    """Two real steps of a run with this config over a mesh; the first one's figures too."""
    devices = jax.devices() if sizes != tiny.ONE_DEVICE else jax.devices()[:1]
    over = mesh_lib.make_mesh(sizes, devices)
    one = dataclasses.replace(one, mesh=sizes)
    program = mesh_program.make_program(one, tiny.SETTINGS, 9, over, new_ids=(5,))
    with jax.set_mesh(over):
        start = first_state.of_params(
            program, jax.device_put(tiny.host_params(), program.placement.params)
        )
        rows = jax.device_put(tiny.uneven_batch(8), over_mesh.batch_sharding(over))
        current, metrics = program.train_step(start, rows)
        current, _ = program.train_step(current, rows)
    return program, jax.device_get(current), jax.device_get(metrics)


RULES = (
    Group(pattern="norms", frozen=True),
    Group(pattern="head", rows="new_tokens", lr_factor=2.0),
    Group(pattern="mlp", lr_factor=0.5),
)


def test_a_run_with_rules_is_the_same_on_every_mesh_and_counts_what_trains_alone():
    one = asked(
        model={"new_tokens": ("<new>",)},
        groups=RULES,
        layer_decay=0.5,
        eps=1e-2,
        max_grad_norm=None,
    )
    program, alone, metrics = run(tiny.ONE_DEVICE, one)
    _, shared, shared_metrics = run(config.Mesh(data=2, fsdp=2, tensor=2), one)
    tiny.assert_trees_close(shared.params, alone.params)
    np.testing.assert_allclose(shared_metrics.grad_norm, metrics.grad_norm, rtol=1e-5)
    assert program.recipe.frozen == {n for n in found() if "norm" in n}
    start = tiny.host_params()
    tiny.assert_trees_equal(alone.params["final_norm"], start["final_norm"])
    moved = (alone.params["head_DV"] != start["head_DV"]).any(axis=0)
    assert np.flatnonzero(moved).tolist() == [5]
    # Rows of the head that do not train have gradients, which the norm must not count.
    assert not np.any(alone.opt_state[0].mu["head_DV"][:, :5])
    whole = tiny.run_steps(tiny.uneven_batch(8))
    grads, _ = state.split(whole.grad_sums, program.recipe.frozen)
    grads["head_DV"] = grads["head_DV"][:, 5]
    squares = sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(grads))
    np.testing.assert_allclose(metrics.grad_norm, np.sqrt(squares) / metrics.sums.weight, rtol=1e-5)
    assert metrics.grad_norm < 0.99 * whole.metrics.grad_norm


def test_the_table_says_what_trains_at_which_rate():
    one = asked(model={"new_tokens": ("<new>",)}, groups=RULES, layer_decay=0.5)
    over = mesh_lib.make_mesh(tiny.ONE_DEVICE, jax.devices()[:1])
    program = mesh_program.make_program(one, tiny.SETTINGS, 9, over, new_ids=(5,))
    assert [row.words for row in program.what_trains] == [
        "others: 1 tensor, 2,048 parameters, learning rate 0.0025, weight decay 0.1",
        "norms: 3 tensors, 160 parameters, frozen",
        "head: 1 tensor, 32 parameters, learning rate 0.02, weight decay 0.1",
        "others: 4 tensors, 6,144 parameters, learning rate 0.005 to 0.01, weight decay 0.1",
        "mlp: 3 tensors, 12,288 parameters, learning rate 0.0025 to 0.005, weight decay 0.1",
    ]
    plain = mesh_program.make_program(asked(weight_decay=0.0), tiny.SETTINGS, 9, over)
    assert [row.words for row in plain.what_trains] == [
        "all: 12 tensors, 22,688 parameters, learning rate 0.01, weight decay 0"
    ]


def test_a_resumed_run_must_have_the_same_rules():
    one = asked(groups=RULES)
    saved = json.loads(json.dumps(identity.identity(one)))
    identity.refuse_changes(saved, identity.identity(one))
    with pytest.raises(CheckpointError, match=r"groups was \[\{.*'norms'.* and is \[\] now"):
        identity.refuse_changes(saved, identity.identity(asked()))
    without = {k: v for k, v in saved.items() if "groups" not in k}  # of before there were any
    identity.refuse_changes(without, identity.identity(asked()))


def test_the_plan_counts_no_state_of_what_is_frozen():
    leaves = mesh_fit.leaves(tiny.SETTINGS)
    of = [Group(pattern=name, frozen=True) for name in ("embedding", "head")]
    share, each = sizing.trained_state(asked(groups=tuple(of)), tiny.SETTINGS, leaves)
    assert share == pytest.approx(1 - 4096 / 22688) and each == 8 * share
