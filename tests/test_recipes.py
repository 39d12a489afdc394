"""The recipes of configs/: each is loaded and declared, two are planned; cards, saved plans
and docs/recipes.md say the same.
"""

import dataclasses
import math
import os
import subprocess
import sys

import jax
import pytest
from pages import recipe_card, recipe_page, recipe_plan

from jaxsft.convert.pretrained import open_pretrained, stored_dtypes
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.plan import estimate, sizing
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.topology import Topology
from jaxsft.training import mesh_fit, parameters
from tests.programs import ROOT

CONFIGS, SHAPES = ROOT / "configs", ROOT / "configs" / "bench_models"
RECIPES = {one.file.name: one for one in recipe_card.find(CONFIGS)}
SAVED = ROOT / "docs" / "measurements" / "plans" / "recipes.json"


def test_each_model_has_its_ways():
    assert len(RECIPES) >= 24
    for name in RECIPES:
        full = name.replace("_lora", "").replace("_nf4", "")
        assert full in RECIPES and full.replace(".py", "_lora.py") in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_run_of_its_model(name):
    """Its adapters find their weights, and its rows divide over the devices that it is for."""
    recipe = RECIPES[name]
    config = recipe_plan.loaded(recipe.file, SHAPES)
    base = open_pretrained(config.model.source, weights=False)
    assert config.data.sequence_length <= base.settings.max_positions
    declared = parameters.declare(config, base.settings, stored=stored_dtypes(base))
    has_adapters = name.endswith(("_lora.py", "_nf4.py"))
    assert (declared.adapters is not None) == (config.lora is not None) == has_adapters
    assert (config.model.frozen_dtype == "nf4") == name.endswith("_nf4.py")
    assert recipe.topologies, "it names no hardware"
    for topology in recipe.topologies:
        devices = num_devices(topology)
        sizes = mesh_lib.fill(config.mesh, devices)
        shares = mesh_fit.batch_multiple(sizes, config.train.microbatches)
        assert config.train.batch_size % shares == 0, topology


def num_devices(topology: str) -> int:
    return math.prod(int(size) for size in topology.partition(":")[2].split("x"))


@pytest.mark.parametrize(
    ("name", "devices", "bytes_each"),
    [("smollm2_135m.py", 4, (4, 8, 4)), ("smollm2_135m_lora.py", 1, (2, 0, 0))],
)
def test_a_recipe_is_planned(name, devices, bytes_each):
    """Parameters, optimizer and gradients, by hand: all float32, split; or a base in bfloat16.

    The 135M of the model come with 4.88M of adapters, which have all three in float32.
    """
    config = recipe_plan.loaded(CONFIGS / name, SHAPES)
    base = open_pretrained(config.model.source, weights=False)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat="full"))
    where = Topology(f"cpu:{devices}", jax.devices()[:devices], None, 1)
    rows = BatchLoad(tokens=1.0, supervised=1.0, segment_length=2048.0)
    made = estimate.make(config, base.settings, where, rows, stored=stored_dtypes(base))
    adapters = 4_884_480 if config.lora else 0
    expected = [
        (134_515_008 * base_bytes + adapters * bytes) / devices
        for base_bytes, bytes in zip(bytes_each, (4, 8, 4), strict=True)
    ]
    assert list(made.state_bytes.values()) == pytest.approx(expected, rel=1e-3)
    mesh = dataclasses.replace(config.mesh, **made.mesh)
    guess = sizing.guesser(config, base.settings, where, rows).guess(
        dataclasses.replace(config, mesh=mesh)
    )
    assert 0.5 * sum(expected) < guess.state_bytes < sum(expected)  # as --search takes it
    assert made.tokens == 16 * 2048 and made.memory.temporaries_bytes > 0


def test_each_recipe_fits_the_hardware_of_its_card():
    """As it was planned; its card says so, and the page."""
    plans = recipe_plan.read(SAVED)
    assert [one.recipe for one in plans if not one.fits] == []
    for recipe in RECIPES.values():
        lines = [one.line for one in plans if one.recipe == recipe.file.name]
        assert list(recipe.lines) == lines, f"tools/plan_recipes.py --only={recipe.file.name}"
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert recipe_page.updated(page, plans) == page
    for one in plans:
        config = recipe_plan.loaded(CONFIGS / one.recipe, SHAPES)
        asked = config.train.batch_size, config.train.microbatches, config.data.sequence_length
        assert (one.rows, one.microbatches, one.sequence_length) == asked, one.recipe
        assert one.method == recipe_plan.method(config), one.recipe


def test_a_card_and_its_lines():
    card = "planned   v5p:2x2x1\n          h100:8: 30 GiB\nresult    none\n"
    again = recipe_card.with_lines(card, ["v5p:2x2x1: 1 of 2 GiB", "h100:8"])
    assert again == "planned   v5p:2x2x1: 1 of 2 GiB\n          h100:8\nresult    none\n"


def test_a_model_without_a_shape_is_named():
    with pytest.raises(ConfigError, match="config.model.source=org/new: no config.json in"):
        recipe_card.shape_of("org/new", SHAPES)


def test_a_page_without_marks_and_a_recipe_that_is_none_are_refused():
    with pytest.raises(ConfigError, match="the page needs the lines '<!-- planned"):
        recipe_page.updated("# Recipes", [])
    done = subprocess.run(
        [sys.executable, "tools/plan_recipes.py", "--only=no.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 64
    assert "error: --only=no.py: expected some of gemma3_4b.py, " in done.stderr
