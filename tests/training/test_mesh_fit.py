"""A mesh that doesn't fit is refused together with meshes that do."""

import dataclasses
import re
from pathlib import Path

import jax
import pytest
import tiny

from jaxsft.config import Config, Data, Eval, Mesh, Model, Optim, Source, Train
from jaxsft.devices import mesh
from jaxsft.errors import MeshError
from jaxsft.model.moe_settings import MoeSettings
from jaxsft.training import mesh_fit, mesh_program

EXPERTS = dataclasses.replace(
    tiny.SETTINGS,
    moe=MoeSettings(num_experts=4, experts_per_token=2, expert_mlp_dim=32, normalised_shares=True),
)

FREE = Mesh()


def config(sizes: Mesh = FREE, **train) -> Config:
    return Config(
        model=Model(source="none"),
        data=Data(train=(Source(path="none.jsonl"),), sequence_length=32),
        mesh=sizes,
        optim=Optim(peak_lr=1e-3),
        train=Train(**({"batch_size": 8, "steps": 1} | train)),
    )


def test_every_mesh_that_is_found_splits_the_model_and_the_batch():
    found = mesh_fit.fitting(config(), tiny.SETTINGS, 8)
    assert found[0] == Mesh(data=1, fsdp=8, context=1, expert=1, tensor=1)  # the plainest
    assert Mesh(data=1, fsdp=2, context=1, expert=1, tensor=4) in found  # 2 heads of keys, whole
    assert not any(one.tensor == 8 or one.expert > 1 for one in found)  # 4 heads, no experts
    for one in found:
        made = mesh.make_mesh(one)
        mesh_fit.check(config(one), tiny.SETTINGS, made.shape)
        assert mesh_program.checked_mesh(config(one), tiny.SETTINGS).shape == made.shape


def test_experts_and_slices_count():
    found = mesh_fit.fitting(config(), EXPERTS, 8)
    assert {one.expert for one in found} == {1, 2, 4}
    found = mesh_fit.fitting(config(), EXPERTS, 8, slices=4)
    inside = [one.data % 4 == 0 for one in found]
    assert inside == sorted(inside, reverse=True) and {True, False} == set(inside)


@pytest.mark.parametrize(
    ("sizes", "train", "match"),
    [
        (Mesh(tensor=8), {}, r"tensor=8: does not divide the 4 .*: fsdp=8; or data=2, fsdp=4; or"),
        (Mesh(data=1, fsdp=4), {}, "needs 4 devices, here are 8; .*fit: fsdp=8"),
        (Mesh(expert=2), {}, "expert=2: the model has no experts; .*fit: fsdp=8"),
        (
            Mesh(fsdp=8),
            {"batch_size": 4},
            "batch_size=4: .* a multiple of 8; .*fit: fsdp=4, tensor=2; or fsdp=4, context=2; or",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_what_would(sizes, train, match):
    assert len(jax.devices()) == 8
    with pytest.raises(MeshError, match=match):
        mesh_program.checked_mesh(config(sizes, **train), tiny.SETTINGS)


def of_33_tokens(asked: Config) -> Config:
    """With rows that no devices can share."""
    return dataclasses.replace(asked, data=dataclasses.replace(asked.data, sequence_length=33))


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ({"batch_size": 3}, "fit with config.train.batch_size=4: fsdp=4, tensor=2"),
        ({"batch_size": 6, "microbatches": 2}, "fit with config.train.batch_size=8: fsdp=4, tens"),
    ],
)
def test_where_nothing_fits_the_batch_that_would_is_said(batches, said):
    odd = of_33_tokens(config(**batches))
    with pytest.raises(MeshError) as refused:
        mesh_program.checked_mesh(odd, tiny.SETTINGS)
    assert said in str(refused.value)


def test_a_batch_of_evaluation_that_does_not_fit_is_named():
    asked = of_33_tokens(dataclasses.replace(config(), eval=Eval(batch_size=5)))
    with pytest.raises(MeshError) as refused:
        mesh_program.checked_mesh(asked, tiny.SETTINGS)
    assert "config.eval.batch_size=5: 1 micro-batches over 8" in str(refused.value)
    assert "fit with config.eval.batch_size=None: fsdp=8" in str(refused.value)


def test_the_table_of_axes_names_all_that_the_model_declares():
    model = Path(mesh.__file__).parents[1] / "model"
    declared = {
        word
        for file in model.rglob("*.py")
        for line in file.read_text().splitlines()
        if re.search(r"parameter\.(matrix|scale|bias)\(", line) and '("' in line
        for word in line.rpartition('("')[2].rstrip(")").replace('"', "").split(", ")
        if word
    }
    assert {word.strip(",() ") for word in declared} - {""} <= set(mesh.RULES)
