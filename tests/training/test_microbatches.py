"""A micro-batch's rows are all that is in memory at a time, and one alone needs no sum."""

import jax
import tiny

from jaxsft.model import state
from jaxsft.training import optim, step
from jaxsft.training.loss_settings import loss_form
from jaxsft.training.schedule import make_schedule

GRAPHDEF, SHAPES, _ = state.abstract(tiny.SETTINGS, "float32", "none")


def rows_and_loops(monkeypatch, microbatches):
    """Shapes that the loss is asked for when the gradient is traced, and lengths of its loops."""
    recipe = step.Recipe(
        GRAPHDEF,
        optim.make_optimizer(tiny.OPTIM),
        make_schedule(tiny.OPTIM, 9),
        microbatches,
        max_grad_norm=None,
        loss_form=loss_form(tiny.SETTINGS),
    )
    real, shapes = step.loss_and_routing, set()

    def seeing(graphdef, params, batch, *others):
        shapes.update(leaf.shape for leaf in jax.tree.leaves(batch))
        return real(graphdef, params, batch, *others)

    monkeypatch.setattr(step, "loss_and_routing", seeing)
    batch = tiny.uneven_batch(rows=12)
    traced = jax.make_jaxpr(lambda params: step.gradient_sums(recipe, params, batch))(SHAPES)
    loops = [one.params["length"] for one in traced.eqns if one.primitive.name == "scan"]
    return shapes, loops


def test_a_micro_batch_is_what_is_in_memory_at_a_time(monkeypatch):
    shapes, loops = rows_and_loops(monkeypatch, 3)
    assert shapes == {(4, 32)} and loops == [3]


def test_one_micro_batch_adds_nothing_up(monkeypatch):
    """A sum of one gradient would be a second one in memory."""
    shapes, loops = rows_and_loops(monkeypatch, 1)
    assert shapes == {(12, 32)} and 1 not in loops
