"""Plans the recipes of configs/ for the hardware that their cards name, and writes what came of it
into docs/recipes.md and the cards.

python tools/plan_recipes.py [--only=qwen3_8b.py,qwen3_8b_lora.py] [--kinds=v5e,v5p,v6e]

Plans that were made before are kept beside those that are made anew. Needs the compilers of the
kinds that are planned (pip install 'jaxsft[plan]' for TPUs, 'jaxsft[plan-gpu]' for GPUs).
"""

import os
from pathlib import Path

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.errors import ConfigError

_ONLY = flags.DEFINE_list("only", None, "names of files of configs/; None: all recipes")
_KINDS = flags.DEFINE_list("kinds", None, "of hardware, such as v5p or h100; None: all")
_ROOT = Path(__file__).resolve().parents[1]
_CONFIGS, _SHAPES = _ROOT / "configs", _ROOT / "configs/bench_models"
_PAGE, _SAVED = _ROOT / "docs/recipes.md", _ROOT / "docs/measurements/plans/recipes.json"


def main() -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Read by jax when it opens its devices; else its plugin for GPUs is left out without a driver.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    from pages import recipe_card, recipe_page, recipe_plan

    recipes = recipe_card.find(_CONFIGS)
    names = [recipe.file.name for recipe in recipes]
    if unknown := sorted(set(_ONLY.value or ()) - set(names)):
        raise ConfigError(f"--only={','.join(unknown)}: expected some of {', '.join(names)}")
    made = {(one.recipe, one.topology): one for one in recipe_plan.read(_SAVED)}
    for recipe in recipes:
        for topology in recipe.topologies:
            if _is_wanted(recipe.file.name, topology):
                print(recipe.file.name, topology, flush=True)
                plan = recipe_plan.make(recipe.file, topology, _SHAPES)
                made[plan.recipe, plan.topology] = plan
                print(plan.line, flush=True)
                recipe_plan.write(_SAVED, list(made.values()))
    shown = [
        made[recipe.file.name, topology]
        for recipe in recipes
        for topology in recipe.topologies
        if (recipe.file.name, topology) in made
    ]
    recipe_plan.write(_SAVED, shown)
    _PAGE.write_text(recipe_page.updated(_PAGE.read_text(), shown))
    for recipe in recipes:
        lines = [one.line for one in shown if one.recipe == recipe.file.name]
        if len(lines) == len(recipe.lines):
            card = recipe.file.read_text()
            recipe.file.write_text(recipe_card.with_lines(card, lines))


def _is_wanted(name: str, topology: str) -> bool:
    kind = topology.partition(":")[0]
    return (not _ONLY.value or name in _ONLY.value) and (not _KINDS.value or kind in _KINDS.value)


if __name__ == "__main__":
    jaxsft_flags.run_tool(main)
