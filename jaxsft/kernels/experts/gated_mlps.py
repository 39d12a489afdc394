"""A mixture of gated MLPs, each token's rows multiplied by its own experts' weights only.

Pairs of (token, expert) are sorted by expert, which makes each expert's rows one group, and the
groups are multiplied by their experts' matrices. All shapes are static and no pair is dropped.

B: batch row, T: position, D: embed_dim, E: expert, X: experts of a token, F: expert_mlp_dim,
N: tokens of this device, M: their pairs (N x X).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from jaxsft.devices.mesh import RULES, spec
from jaxsft.kernels.experts.grouped_dot import grouped_dot

GatedActivation = Callable[[jax.Array, jax.Array], jax.Array]  # of gate and up, elementwise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """A change of each expert's matrix: A B, beside the matrix. R: rank."""

    a_xR: jax.Array  # [E, inputs, R]
    b_x: jax.Array  # [E, R, outputs]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experts:
    gate_EDF: jax.Array
    up_EDF: jax.Array
    down_EFD: jax.Array
    gate_bias_EF: jax.Array | None = None  # both or none
    up_bias_EF: jax.Array | None = None
    gate_change: LowRank | None = None
    up_change: LowRank | None = None
    down_change: LowRank | None = None


def top_k(logits_BTE: jax.Array, num_chosen: int) -> tuple[jax.Array, jax.Array]:
    """Each token's highest logits and their experts, [B, T, X]; of equal ones the first win.

    Each device looks at its own tokens; left to the compiler, it would look at everybody's.
    """

    def local(logits_BTE):
        top_BTX, chosen_BTX = jax.lax.top_k(logits_BTE, num_chosen)
        return top_BTX, chosen_BTX

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(logits_BTE)
    tokens = _token_spec(mesh, logits_BTE.shape)
    return jax.shard_map(
        local, mesh=mesh, in_specs=tokens, out_specs=(tokens, tokens), check_vma=False
    )(logits_BTE)


def mix(
    x_BTD: jax.Array,
    chosen_BTX: jax.Array,
    shares_BTX: jax.Array,
    experts: Experts,
    activate: GatedActivation,
    back_end: str,
) -> jax.Array:
    """The sum over a token's experts of share x (activate(x gate, x up) down), float32 [B, T, D].

    On a mesh each device takes its own tokens through the experts and columns that it holds, and
    the parts are added.

    Args:
        chosen_BTX: int32 in [0, E); E is no expert and contributes 0.
        shares_BTX: float32.
        experts: in the dtype of x; the matmuls run in it.
    """
    if back_end == "dense":
        return _dense(x_BTD, chosen_BTX, shares_BTX, experts, activate)
    local = functools.partial(_local, activate=activate, back_end=back_end)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return local(x_BTD, chosen_BTX, shares_BTX, experts, first_expert=0)
    summed = RULES["expert"] + RULES["mlp"]
    tokens = _token_spec(mesh, x_BTD.shape, summed)

    def on_device(x_BTD, chosen_BTX, shares_BTX, experts):
        first_expert = jax.lax.axis_index(RULES["expert"]) * experts.gate_EDF.shape[0]
        return local(x_BTD, chosen_BTX, shares_BTX, experts, first_expert=first_expert)[None]

    # The parts come out side by side, so that their sum's gradient needs no collective.
    parts_PBTD = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(tokens, tokens, tokens, _expert_specs(experts)),
        out_specs=PartitionSpec(summed, *tokens),
        check_vma=False,
    )(x_BTD, chosen_BTX, shares_BTX, experts)
    return jnp.sum(parts_PBTD, axis=0)


def spread(chosen_BTX: jax.Array, shares_BTX: jax.Array, num_experts: int) -> jax.Array:
    """The share of every expert, 0 where it was not chosen, float32 [B, T, E]."""
    one_BTXE = jax.nn.one_hot(chosen_BTX, num_experts, dtype=jnp.float32)
    return jnp.einsum("BTXE,BTX->BTE", one_BTXE, shares_BTX)


def _expert_specs(experts: Experts) -> Experts:
    """Where each of the experts' arrays lies on the mesh."""
    into, out, bias = (
        spec("expert", None, "mlp"),
        spec("expert", "mlp", None),
        spec("expert", "mlp"),
    )
    whole = spec("expert", None, None)
    into_change, out_change = LowRank(whole, into), LowRank(out, whole)  # pyright: ignore  # specs
    specs: dict[str, Any] = {
        **{"gate_EDF": into, "up_EDF": into, "down_EFD": out},
        **{"gate_bias_EF": bias, "up_bias_EF": bias},
        **{"gate_change": into_change, "up_change": into_change, "down_change": out_change},
    }
    there: dict[str, Any] = vars(experts)
    kept: dict[str, Any] = {name: None if there[name] is None else specs[name] for name in specs}
    return Experts(**kept)


def _token_spec(mesh, shape: tuple[int, ...], without: tuple[str, ...] = ()) -> PartitionSpec:
    """Tokens as they lie, but whole along the mesh axes of `without` and where axes do not fit."""

    def over(size: int, logical: str) -> tuple[str, ...]:
        axes = tuple(axis for axis in RULES[logical] if axis not in without)
        return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()

    return PartitionSpec(over(shape[0], "batch"), over(shape[1], "sequence"), None)


def _dense(x_BTD, chosen_BTX, shares_BTX, experts: Experts, activate: GatedActivation) -> jax.Array:
    """`mix` by its definition: every expert on every token."""

    def into(weight_EDF, change, bias_EF):
        out_BTEF = jnp.einsum("BTD,EDF->BTEF", x_BTD, weight_EDF)
        if change is not None:
            low_BTER = jnp.einsum("BTD,EDR->BTER", x_BTD, change.a_xR)
            out_BTEF += jnp.einsum("BTER,ERF->BTEF", low_BTER, change.b_x)
        return out_BTEF if bias_EF is None else out_BTEF + bias_EF[None, None]

    gate_BTEF = into(experts.gate_EDF, experts.gate_change, experts.gate_bias_EF)
    up_BTEF = into(experts.up_EDF, experts.up_change, experts.up_bias_EF)
    gate_BTEF, up_BTEF = checkpoint_name(gate_BTEF, "gate"), checkpoint_name(up_BTEF, "up")
    hidden_BTEF = activate(gate_BTEF, up_BTEF)
    out_BTED = jnp.einsum("BTEF,EFD->BTED", hidden_BTEF, experts.down_EFD)
    if (change := experts.down_change) is not None:
        low_BTER = jnp.einsum("BTEF,EFR->BTER", hidden_BTEF, change.a_xR)
        out_BTED += jnp.einsum("BTER,ERD->BTED", low_BTER, change.b_x)
    shares_BTE = spread(chosen_BTX, shares_BTX, experts.gate_EDF.shape[0])
    return jnp.einsum("BTED,BTE->BTD", out_BTED.astype(jnp.float32), shares_BTE)


def _local(
    x_BTD,
    chosen_BTX,
    shares_BTX,
    experts: Experts,
    first_expert,
    activate: GatedActivation,
    back_end,
) -> jax.Array:
    """`mix` over the experts from `first_expert` on that are here; the others contribute 0."""
    batch, length, num_chosen = chosen_BTX.shape
    num_experts = experts.gate_EDF.shape[0]
    expert_M = chosen_BTX.reshape(-1) - first_expert
    expert_M = jnp.where((expert_M >= 0) & (expert_M < num_experts), expert_M, num_experts)
    # Counted at once: a search in the sorted ones would be a loop of small programs on a GPU.
    mine_ME = expert_M[:, None] == jnp.arange(num_experts, dtype=expert_M.dtype)[None]
    sizes_E = jnp.sum(mine_ME, axis=0, dtype=jnp.int32)
    order_M = jnp.argsort(expert_M)
    numbers_M = jnp.arange(order_M.size, dtype=order_M.dtype)
    back_M = jnp.zeros_like(order_M).at[order_M].set(numbers_M, unique_indices=True)
    expert_M = expert_M[order_M]

    def product(rows_MK, weight_EKF, change):
        out_MF = grouped_dot(rows_MK, weight_EKF, sizes_E, back_end)
        if change is None:
            return out_MF
        # A rank is no whole tile of those kernels.
        low = "tiled" if back_end == "triton" else back_end
        low_MR = grouped_dot(rows_MK, change.a_xR, sizes_E, low)
        return out_MF + grouped_dot(low_MR, change.b_x, sizes_E, low)

    def into(rows_MD, weight_EDF, change, bias_EF):
        out_MF = product(rows_MD, weight_EDF, change)
        if bias_EF is None:
            return out_MF
        # A product, because the sum that a gather's gradient makes has no fixed order on GPU.
        return out_MF + jax.nn.one_hot(expert_M, num_experts, dtype=out_MF.dtype) @ bias_EF

    x_NXD = jnp.broadcast_to(x_BTD[:, :, None], (batch, length, num_chosen, x_BTD.shape[-1]))
    rows_MD = _permute(x_NXD.reshape(order_M.size, -1), order_M, back_M)
    gate_MF = into(rows_MD, experts.gate_EDF, experts.gate_change, experts.gate_bias_EF)
    up_MF = into(rows_MD, experts.up_EDF, experts.up_change, experts.up_bias_EF)
    gate_MF, up_MF = checkpoint_name(gate_MF, "gate"), checkpoint_name(up_MF, "up")
    out_MD = product(activate(gate_MF, up_MF), experts.down_EFD, experts.down_change)
    out_BTXD = _permute(out_MD, back_M, order_M).reshape(batch, length, num_chosen, -1)
    return jnp.einsum("BTXD,BTX->BTD", out_BTXD.astype(jnp.float32), shares_BTX)


@jax.custom_vjp
def _permute(rows_MD, order_M, back_M):
    """rows_MD[order_M]; its gradient is a gather too, which has one order of sums on GPU."""
    del back_M
    return rows_MD[order_M]


_permute.defvjp(
    lambda rows_MD, order_M, back_M: (rows_MD[order_M], back_M),
    lambda back_M, d_out_MD: (d_out_MD[back_M], None, None),
)
