"""A step with adapters: what it trains, computes and holds; the same run on every mesh."""

import dataclasses
import functools

import adapted
import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxsft import config
from jaxsft.checks import bench, laws
from jaxsft.config import Lora
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.devices import mesh
from jaxsft.devices.digest import named
from jaxsft.errors import ConfigError
from jaxsft.model import state
from jaxsft.model.moe_settings import MoeSettings
from jaxsft.plan import cost, hlo
from jaxsft.training import lora, mesh_program, over_mesh, parameters, step
from jaxsft.training.flops import training_flops
from jaxsft.training.saved_state import saved_of

MIXTURE = dataclasses.replace(
    tiny.SETTINGS,
    moe=MoeSettings(
        num_experts=4,
        experts_per_token=2,
        expert_mlp_dim=24,
        normalised_shares=True,
        init_stddev=0.1,
    ),
)
ROWS, LENGTH, RANK = 8, 32, 4
# The eps that people train with: its sign-like first update is what a mesh could turn round.
OPTIM = config.Optim(peak_lr=1e-3, schedule="constant", weight_decay=0.1, warmup_steps=0)


def asked(sizes=tiny.ONE_DEVICE, **changes):
    return config.Config(
        model=config.Model(source="x", dtype="float32", remat="none", unroll_layers=1),
        data=config.Data(train=(config.Source(path="x"),), sequence_length=LENGTH),
        optim=OPTIM,
        train=config.Train(batch_size=ROWS, steps=20),
        mesh=sizes,
        lora=Lora(rank=RANK),
        **changes,
    )


def begun(program, model, devices=None):
    """The state before step 0, the same bits on every mesh."""
    params, _ = adapted.with_adapters(model, Lora(rank=RANK), tiny.host_params(model))
    host = jax.tree.map(np.asarray, params)
    with jax.set_mesh(program.mesh):
        return step.init_state(program.recipe, jax.device_put(host, program.placement.params))


def program_of(sizes, model, devices):
    one = asked(sizes)
    over = mesh.make_mesh(sizes, devices)
    return mesh_program.make_program(one, model, 20, over)


@functools.cache
def trained(sizes, order, model, wrong=False):
    """Trained parameters after 20 steps over a mesh of these devices, and as they began."""
    devices = [jax.devices()[i] for i in order]
    program = program_of(sizes, model, devices)
    current = begun(program, model)
    first = jax.device_get(current.trained)
    rows = tiny.uneven_batch(ROWS, LENGTH)
    if wrong:  # as if one of eight devices' gradients were left out
        rows = dataclasses.replace(rows, weights_BT=rows.weights_BT.copy())
        rows.weights_BT[-1] = 0
    with jax.set_mesh(program.mesh):
        batch = jax.device_put(rows, over_mesh.batch_sharding(program.mesh))
        for _ in range(20):
            current, _ = program.train_step(current, batch)
    return jax.device_get(current.trained), first


def distance(some, others, first):
    """Norm of the difference, by that of what training changed."""

    def norm(a, b):
        squares = jax.tree.map(lambda x, y: np.sum(np.square(np.float64(x) - y)), a, b)
        return sum(jax.tree.leaves(squares)) ** 0.5

    return norm(some, others) / norm(others, first)


ONE = (tiny.ONE_DEVICE, (0,))
EIGHT = tuple(range(8))
MESHES = [
    (config.Mesh(data=8), EIGHT),
    (config.Mesh(fsdp=8), EIGHT),
    (config.Mesh(fsdp=8), (3, 1, 4, 0, 5, 7, 2, 6)),
    (config.Mesh(data=2, fsdp=4), (7, 6, 5, 4, 3, 2, 1, 0)),
    (config.Mesh(fsdp=4, tensor=2), EIGHT),
    (config.Mesh(fsdp=4, tensor=2), (1, 0, 3, 2, 5, 4, 7, 6)),
    (config.Mesh(fsdp=4, context=2), EIGHT),
]


@pytest.mark.parametrize("over", MESHES, ids=str)
def test_twenty_steps_are_the_same_on_every_mesh(over):
    expected, first = trained(*ONE, tiny.SETTINGS)
    assert distance(trained(*over, tiny.SETTINGS)[0], expected, first) < 1e-5


@pytest.mark.parametrize("sizes", [config.Mesh(fsdp=2, expert=4), config.Mesh(fsdp=4, tensor=2)])
def test_experts_adapters_are_the_same_on_every_mesh(sizes):
    expected, first = trained(*ONE, MIXTURE)
    assert distance(trained(sizes, EIGHT, MIXTURE)[0], expected, first) < 1e-5


def test_b_learns_at_a_rate_of_its_own():
    """The first update of Adam is the rate and a sign, so that B shows its rate by its size."""
    one = asked()
    program = mesh_program.make_program(
        dataclasses.replace(one, lora=dataclasses.replace(one.lora, lr_ratio=4.0)),
        tiny.SETTINGS,
        20,
        mesh.make_mesh(tiny.ONE_DEVICE, jax.devices()[:1]),
    )
    rows = [(row.label, row.rate) for row in program.what_trains if not row.frozen]
    assert rows[:2] == [("adapters of attention", "0.001"), ("adapters of attention", "0.004")]
    with jax.set_mesh(program.mesh):
        current = begun(program, tiny.SETTINGS)
        batch = jax.device_put(
            tiny.uneven_batch(ROWS, LENGTH), over_mesh.batch_sharding(program.mesh)
        )
        current, _ = program.train_step(current, batch)
    b = np.abs(current.trained["layers"]["mlp"]["up_DF_lora"]["b"])
    np.testing.assert_allclose(np.median(b), 4e-3, rtol=1e-3)


def test_a_gradient_left_out_is_far_from_the_bound():
    expected, first = trained(*ONE, tiny.SETTINGS)
    assert distance(trained(*ONE, tiny.SETTINGS, wrong=True)[0], expected, first) > 1e-3


@functools.cache
def compiled(with_lora, model=tiny.SETTINGS):
    one = asked() if with_lora else dataclasses.replace(asked(), lora=None)
    over = mesh.make_mesh(tiny.ONE_DEVICE, jax.devices()[:1])
    program = mesh_program.make_program(one, model, 20, over)
    return program, mesh_program.compile_train_step(program, one)


def test_the_compiled_step_forms_no_product_for_a_frozen_weight():
    """Beside adapters it computes what the whole model's step does, but for the weights' own."""
    s, tokens = tiny.SETTINGS, ROWS * LENGTH
    flops = [cost.matmul_flops(hlo.parse(compiled(on)[1].as_text())) for on in (True, False)]
    program = compiled(True)[0]
    weights = program.adapters.weights
    sides = [
        (np.prod(weights[path].inputs), np.prod(weights[path].outputs))
        for path in program.adapters.specs
    ]
    products = sum(2 * tokens * int(a) * int(b) for a, b in sides) * s.num_layers
    adapters = sum(6 * tokens * RANK * int(a + b) for a, b in sides) * s.num_layers
    head = 2 * 128 * s.embed_dim * s.vocab_size  # of the one chunk that the parser counts
    assert flops[1] - flops[0] == products + head - adapters
    one = BatchCounts(tokens, tokens, {None: 0}, 0)
    needed = [
        training_flops(s, one, 128, compiled(on)[0].untrained) for on in (True, False)
    ]  # as mfu counts
    assert needed[1] - needed[0] == products + head - adapters


def test_only_adapters_have_a_gradient_a_moment_and_a_place_in_checkpoints():
    program, _ = compiled(True)
    trained_names = set(named(program.shapes.trained))
    assert all("_lora." in name and not name.endswith(".scale") for name in trained_names)
    adam = program.shapes.opt_state[0]
    assert set(named(adam.mu)) == set(named(adam.nu)) == trained_names
    assert set(named(saved_of(program.shapes).params)) == trained_names


def test_frozen_weights_are_kept_as_the_files_have_them():
    one, over = asked(), mesh.make_mesh(tiny.ONE_DEVICE, jax.devices()[:1])
    stored = {"embedding_VD": "float16", "layers.mlp.up_DF": "bfloat16"}
    kept = mesh_program.make_program(one, tiny.SETTINGS, 20, over, stored=stored).shapes
    assert kept.frozen["embedding_VD"].dtype == "float16"
    assert kept.frozen["layers"]["mlp"]["up_DF"].dtype == "bfloat16"
    assert kept.frozen["layers"]["mlp"]["down_FD"].dtype == "float32"
    as_bfloat16 = dataclasses.replace(one.model, frozen_dtype="bfloat16")
    one = dataclasses.replace(one, model=as_bfloat16)
    kept = mesh_program.make_program(one, tiny.SETTINGS, 20, over, stored=stored).shapes
    dtypes = {name: str(leaf.dtype) for name, leaf in named(kept.params).items()}
    assert set(dtypes.values()) == {"bfloat16", "float32"}
    assert {dtypes[name] for name in dtypes if "_lora" in name} == {"float32"}
    assert {dtypes[name] for name in dtypes if "_lora" not in name} == {"bfloat16"}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (
            tiny.SETTINGS,
            {"targets": ("atention",)},
            "targets: 'atention' matches nothing in this mod",
        ),
        (tiny.SETTINGS, {"targets": ("experts",)}, "'experts' matches nothing .* there are .*mlp"),
        (tiny.SETTINGS, {"ranks": {"head": 2}}, "ranks: 'head' matches nothing .* attention, mlp"),
        (tiny.SETTINGS, {"train_whole": ("final",)}, "train_whole: 'final' matches nothing"),
        (tiny.SETTINGS, {"train_whole": ("up_*",)}, "layers.mlp.up_DF has an adapter too"),
        (MIXTURE, {"dora": True}, "dora=True: experts have no DoRA"),
    ],
)
def test_what_means_nothing_is_refused(model, changes, message):
    _, shapes, axes = state.abstract(model, "float32", "none")
    with pytest.raises(ConfigError, match=message):
        lora.declare(Lora(**changes), model, shapes, axes)


def test_patterns_and_ranks_of_their_own():
    _, shapes, axes = state.abstract(MIXTURE, "float32", "none")
    made = lora.declare(
        Lora(rank=8, divide_expert_rank=True, targets=("experts", "q_*"), ranks={"q_*": 3}),
        MIXTURE,
        shapes,
        axes,
    )
    ranks = {path.rpartition(".")[2]: (s.rank, s.scale[0]) for path, s in made.specs.items()}
    assert ranks == {
        "q_DNH": (3, 32 / 3),
        **dict.fromkeys(("gate_EDF", "up_EDF", "down_EFD"), (4, 8.0)),
    }


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (tiny.SETTINGS, {"new_tokens": ("<a>",)}, r"train_whole=\['embedding', 'head'\]"),
        (tiny.SETTINGS, {"dead_rows": "repair"}, "dead_rows=repair: makes rows of embedding"),
        (
            dataclasses.replace(tiny.SETTINGS, tied_embeddings=True),
            {"new_tokens": ("<a>",)},
            r"train_whole=\['embedding'\]",
        ),
    ],
)
def test_rows_that_would_be_lost_are_refused(model, changes, message):
    one = asked()
    one = dataclasses.replace(one, model=dataclasses.replace(one.model, **changes))
    with pytest.raises(ConfigError, match=message):
        parameters.declare(one, model)


def test_a_plan_without_files_knows_the_dtype_that_config_json_says():
    one, dtypes = asked(), {"embedding_VD": "bfloat16", "head_DV": "bfloat16"}
    assert parameters.with_known_dtype(one, dtypes).model.frozen_dtype == "bfloat16"
    assert parameters.with_known_dtype(one, dtypes | {"x": "float32"}) == one
    asked_for = dataclasses.replace(one.model, frozen_dtype="float32")
    other = dataclasses.replace(one, model=asked_for)
    assert parameters.with_known_dtype(other, dtypes) == other


def test_the_laws_are_measured_with_the_adapters_of_a_run():
    made = bench.make_bench(asked(config.Mesh(fsdp=8)), tiny.SETTINGS)
    b = made.params["layers"]["attention"]["q_DNH_lora"]["b"]
    assert np.abs(b).max() > 0.01
    gradients = laws._gradients(made, made.rows, made.mesh, 1)
    paths = nnx.traversals.flatten_mapping(gradients)
    assert paths and all(path[-2].endswith("_lora") for path in paths)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients)) > 0
