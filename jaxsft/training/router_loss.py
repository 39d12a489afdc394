"""Losses of a mixture's routers, as sums over parts of a batch that add up to those of the whole.

E: expert, L: layer.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.config import Loss
from jaxsft.errors import ConfigError
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model.moe import RouterStats
from jaxsft.model.settings import DecoderSettings
from jaxsft.model.state import Params
from jaxsft.training.batch import Batch
from jaxsft.training.loss import routing_of


@dataclasses.dataclass(frozen=True)
class RouterLosses:
    """Coefficients of what the mean loss of the targets has beside it."""

    balance: float
    z: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whole:
    """What is known of the whole batch before its parts are differentiated."""

    weight: jax.Array  # of its targets in what is minimised
    tokens: jax.Array  # real ones
    # Of all layers, tokens that chose each expert; None: a part is the whole, and has them.
    assignments_E: jax.Array | None


def router_losses(loss: Loss, s: DecoderSettings) -> RouterLosses | None:
    """Those of a run; None: none.

    Raises:
        ConfigError: losses of routers of a model that has none.
    """
    if s.moe is None:
        for name in ("router_balance", "router_z"):
            if value := getattr(loss, name):
                raise ConfigError(
                    f"config.loss.{name}={value}: the model has no experts and so no router; leave"
                    " it out"
                )
        return None
    asked = loss.router_balance
    if asked is None:
        asked = s.moe.balance_coefficient if s.moe.balances else 0.0
    return RouterLosses(asked, loss.router_z) if asked or loss.router_z else None


def router_notes(loss: Loss, s: DecoderSettings, microbatches: int) -> list[str]:
    """Where the balance loss's coefficient is from and what it costs; none without a router."""
    if s.moe is None:
        return []
    published = s.moe.balance_coefficient
    if loss.router_balance is not None:
        said = f"router balance loss x {loss.router_balance:g}, by config.loss.router_balance"
    elif s.moe.balances:
        said = (
            "router balance loss by config.json, whose output_router_logits is true:"
            f" router_aux_loss_coef={published:g}; config.loss.router_balance=0 switches it off"
        )
    else:
        said = (
            f"no router balance loss: router_aux_loss_coef={published:g} of the model counts only"
            " where config.json's output_router_logits is true;"
            f" config.loss.router_balance={published or 0.001:g} switches it on"
        )
    losses = router_losses(loss, s)
    if losses is None or not losses.balance or microbatches == 1:
        return [said]
    return [
        said,
        f"{microbatches} micro-batches: each step has a forward pass more, which counts how the"
        " whole batch is spread over the experts",
    ]


def whole_of(losses: RouterLosses | None, batch: Batch) -> Whole | None:
    """What is known of a batch before anything is computed; None where no loss needs it."""
    if losses is None:
        return None
    own = batch.weights_BT if batch.objective_weights_BT is None else batch.objective_weights_BT
    tokens = jnp.sum(batch.segments_BT > 0, dtype=jnp.float32)
    return Whole(jnp.sum(own), tokens, None)


def counted(
    whole: Whole | None,
    losses: RouterLosses | None,
    graphdef: nnx.GraphDef,
    params: Params,
    parts_A: Batch,
) -> Whole | None:
    """`whole` with the choices of the batch's tokens, by a forward pass over its parts.

    They are known behind the last part only, while the gradient of the first depends on them. So a
    pass of their own is what an exact balance loss of several parts costs.
    """
    if whole is None or losses is None or not losses.balance:
        return whole

    def of_part(part: Batch) -> jax.Array:
        routing_L = routing_of(graphdef, params, part)
        assert routing_L is not None
        return jnp.sum(routing_L.assignments_E, axis=0)

    one = jax.tree.map(lambda rows: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype), parts_A)
    zeros_E = jnp.zeros_like(jax.eval_shape(of_part, one))
    found_E = jax.lax.scan(lambda sum_E, part: (sum_E + of_part(part), None), zeros_E, parts_A)[0]
    return dataclasses.replace(whole, assignments_E=found_E)


def with_router_losses(
    losses: RouterLosses, sums: Sums, routing_L: RouterStats | None, whole: Whole | None
) -> Sums:
    """The sums of a part of a batch, with its routers' losses in what is minimised.

    Both are means over real tokens and layers, times the batch's weight as all sums are divided by
    that. The balance loss is num_experts x the sum of (share of tokens x mean probability): the
    shares are those of the whole batch and have no gradient, so it is linear in the probabilities
    and adds up over parts. Experts of the same number in several layers are counted as one, as in
    transformers.
    """
    assert routing_L is not None and whole is not None
    num_layers, num_experts = routing_L.assignments_E.shape
    answers = num_layers * jnp.maximum(whole.tokens, 1)
    value = jnp.float32(0)
    if losses.balance:
        chosen_E = whole.assignments_E
        if chosen_E is None:
            chosen_E = routing_L.assignments_E.sum(axis=0)
        shares_E = jax.lax.stop_gradient(chosen_E / answers)
        mean_E = routing_L.probability_E.sum(axis=0) / answers
        value += losses.balance * num_experts * jnp.sum(shares_E * mean_E)
    if losses.z:
        assert routing_L.square_log_sum is not None
        value += losses.z * routing_L.square_log_sum.sum() / answers
    return dataclasses.replace(
        sums,
        objective=sums.minimised + whole.weight * value,
        objective_weight=sums.minimised_weight,
    )
