"""A mixture of gated MLPs, each token's rows multiplied by its own experts' weights only.

Pairs of (token, expert) are sorted by expert, which makes each expert's rows one group, and the
groups are multiplied by their experts' matrices. All shapes are static and no pair is dropped.

B: batch row, T: position, D: embed_dim, E: expert, X: experts of a token, F: expert_mlp_dim,
N: tokens of this device, M: their pairs (N x X), R: rows of a tile, K: contracted dimension.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from jaxsft.devices.mesh import RULES, spec
from jaxsft.errors import ConfigError

# tiled: a loop over tiles of rows of one expert. ragged: jax.lax.ragged_dot, which is a kernel on
# TPU and num_experts times the work elsewhere; the gradient of its matrices would be that on TPU
# too, and is a kernel of jax's own there. dense: every expert on every token, the reference.
BACK_ENDS = ("tiled", "ragged", "dense")

TILES_SCOPE = "expert_tiles"  # how the plan knows a compiled loop over tiles
# Rows, K and F of a kernel's tile: what fits into the 16 MiB that a TPU core gives a kernel, with
# float32 inputs too.
_KERNEL_TILE = (512, 512, 1024)

GatedActivation = Callable[[jax.Array, jax.Array], jax.Array]  # of gate and up, elementwise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experts:
    gate_EDF: jax.Array
    up_EDF: jax.Array
    down_EFD: jax.Array
    gate_bias_EF: jax.Array | None = None  # both or none
    up_bias_EF: jax.Array | None = None


def choose(name: str, platform: str) -> tuple[str, str]:
    """The back end that `name` stands for on a device's platform, and why.

    Raises:
        ConfigError: a back end that is not there.
    """
    if name == "auto":
        if platform == "tpu":
            return "ragged", "ragged_dot is a kernel on TPU"
        return "tiled", "ragged_dot would run every expert on every row here"
    if name not in BACK_ENDS:
        raise ConfigError(f"back_end={name}: expected auto, {' or '.join(BACK_ENDS)}")
    return name, "asked for"


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
    bias = None if experts.gate_bias_EF is None else spec("expert", "mlp")
    into, out = spec("expert", None, "mlp"), spec("expert", "mlp", None)
    return Experts(into, into, out, bias, bias)  # pyright: ignore  # specs in the arrays' places


def _token_spec(mesh, shape: tuple[int, ...], without: tuple[str, ...] = ()) -> PartitionSpec:
    """Tokens as they lie, but whole along the mesh axes of `without` and where axes do not fit."""

    def over(size: int, logical: str) -> tuple[str, ...]:
        axes = tuple(axis for axis in RULES[logical] if axis not in without)
        return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()

    return PartitionSpec(over(shape[0], "batch"), over(shape[1], "sequence"), None)


def _dense(x_BTD, chosen_BTX, shares_BTX, experts: Experts, activate: GatedActivation) -> jax.Array:
    def into(weight_EDF, bias_EF):
        out_BTEF = jnp.einsum("BTD,EDF->BTEF", x_BTD, weight_EDF)
        return out_BTEF if bias_EF is None else out_BTEF + bias_EF[None, None]

    gate_BTEF = checkpoint_name(into(experts.gate_EDF, experts.gate_bias_EF), "gate")
    up_BTEF = checkpoint_name(into(experts.up_EDF, experts.up_bias_EF), "up")
    hidden_BTEF = activate(gate_BTEF, up_BTEF)
    out_BTED = jnp.einsum("BTEF,EFD->BTED", hidden_BTEF, experts.down_EFD)
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
    order_M = jnp.argsort(expert_M, stable=True)
    numbers_M = jnp.arange(order_M.size, dtype=order_M.dtype)
    back_M = jnp.zeros_like(order_M).at[order_M].set(numbers_M, unique_indices=True)
    expert_M = expert_M[order_M]
    starts = jnp.searchsorted(expert_M, jnp.arange(num_experts + 1))
    sizes_E = jnp.diff(starts).astype(jnp.int32)

    def into(rows_MD, weight_EDF, bias_EF):
        out_MF = grouped_dot(rows_MD, weight_EDF, sizes_E, back_end)
        if bias_EF is None:
            return out_MF
        # A product, because the sum that a gather's gradient makes has no fixed order on GPU.
        return out_MF + jax.nn.one_hot(expert_M, num_experts, dtype=out_MF.dtype) @ bias_EF

    x_NXD = jnp.broadcast_to(x_BTD[:, :, None], (batch, length, num_chosen, x_BTD.shape[-1]))
    rows_MD = _permute(x_NXD.reshape(order_M.size, -1), order_M, back_M)
    gate_MF = checkpoint_name(into(rows_MD, experts.gate_EDF, experts.gate_bias_EF), "gate")
    up_MF = checkpoint_name(into(rows_MD, experts.up_EDF, experts.up_bias_EF), "up")
    hidden_MF = activate(gate_MF, up_MF)
    out_MD = grouped_dot(hidden_MF, experts.down_EFD, sizes_E, back_end)
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


def grouped_dot(x_MK: jax.Array, w_EKF: jax.Array, sizes_E: jax.Array, back_end: str) -> jax.Array:
    """Each group of consecutive rows times its own matrix, [M, F] in the dtype of x.

    Args:
        sizes_E: int32 rows of each group; rows after the last group give 0.
    """
    used_M1 = (jnp.arange(x_MK.shape[0]) < jnp.sum(sizes_E))[:, None]
    dot = {"tiled": _tiled_dot, "ragged": _ragged_dot}[back_end]
    # Both ways, so that whatever the back end leaves in unused rows stays out of gradients too.
    out_MF = dot(jnp.where(used_M1, x_MK, 0), w_EKF, sizes_E)
    return jnp.where(used_M1, out_MF, 0)


@jax.custom_vjp
def _ragged_dot(x_MK, w_EKF, sizes_E):
    return jax.lax.ragged_dot(x_MK, w_EKF, sizes_E)


def _ragged_dot_backward(residuals, d_out_MF):
    x_MK, w_EKF, sizes_E = residuals
    d_x_MK = jax.lax.ragged_dot(d_out_MF, w_EKF.swapaxes(1, 2), sizes_E)
    kernel, tiled = (
        functools.partial(weights, dtype=w_EKF.dtype)
        for weights in (kernel_weights, _tiled_weights)
    )
    d_w_EKF = jax.lax.platform_dependent(x_MK, d_out_MF, sizes_E, tpu=kernel, default=tiled)
    return d_x_MK, d_w_EKF, None


_ragged_dot.defvjp(
    lambda x_MK, w_EKF, sizes_E: (_ragged_dot(x_MK, w_EKF, sizes_E), (x_MK, w_EKF, sizes_E)),
    _ragged_dot_backward,
)


def kernel_weights(x_MK, d_out_MF, sizes_E, dtype, interpret=False):
    """Each group's x^T d_out, [E, K, F], by a kernel for TPU that skips unused rows."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    rows = min(_KERNEL_TILE[0], x_MK.shape[0])
    tail = ((0, -x_MK.shape[0] % rows), (0, 0))  # it takes whole tiles of rows
    x_MK, d_out_MF = jnp.pad(x_MK, tail), jnp.pad(d_out_MF, tail)
    tiles = (rows, *_KERNEL_TILE[1:])
    return tgmm(x_MK.T, d_out_MF, sizes_E, dtype, tiles, interpret=interpret)


@jax.custom_vjp
def _tiled_dot(x_MK, w_EKF, sizes_E):
    """grouped_dot by a loop over tiles of rows; those after the last group hold anything."""
    return _tiled_rows(x_MK, w_EKF, sizes_E, contract=1)


def _tiled_dot_backward(residuals, d_out_MF):
    x_MK, w_EKF, sizes_E = residuals
    d_x_MK = _tiled_rows(d_out_MF, w_EKF, sizes_E, contract=2)
    return d_x_MK, _tiled_weights(x_MK, d_out_MF, sizes_E, w_EKF.dtype), None


_tiled_dot.defvjp(
    lambda x_MK, w_EKF, sizes_E: (_tiled_dot(x_MK, w_EKF, sizes_E), (x_MK, w_EKF, sizes_E)),
    _tiled_dot_backward,
)


def tile_rows(num_rows: int, num_experts: int) -> int:
    """Rows of a tile: about a quarter of an even group, since half a tile per group is waste."""
    quarter = num_rows // (4 * num_experts)
    return min(max(32, 1 << quarter.bit_length()), 512)


def _each_tile(sizes_E, num_rows: int, body: Callable, start):
    """Folds body(expert, first_row, rows left in its group, value) over all tiles, in row order."""
    size = tile_rows(num_rows, sizes_E.size)
    tiles_E = -(-sizes_E // size)
    ends_E = jnp.cumsum(tiles_E)
    first_rows_E = jnp.cumsum(sizes_E) - sizes_E

    def step(tile, value):
        expert = jnp.searchsorted(ends_E, tile, side="right")
        within = (tile - ends_E[expert] + tiles_E[expert]) * size
        return body(expert, first_rows_E[expert] + within, sizes_E[expert] - within, value)

    with jax.named_scope(TILES_SCOPE):
        return jax.lax.fori_loop(0, ends_E[-1], step, start)


def _padded(x_MK, num_experts: int):
    """With room for the last tile, and the rows of a tile."""
    size = tile_rows(x_MK.shape[0], num_experts)
    return jnp.pad(x_MK, ((0, size), (0, 0))), size


def _tiled_rows(x_MK, w_EKF, sizes_E, contract: int):
    """Rows times their group's matrix, contracted over its dimension `contract`.

    A tile may reach into the next groups; their own tiles, which come later, overwrite that.
    """
    padded_MK, size = _padded(x_MK, sizes_E.size)

    def body(expert, first_row, _, out_MF):
        x_RK = jax.lax.dynamic_slice_in_dim(padded_MK, first_row, size)
        w_KF = jax.lax.dynamic_index_in_dim(w_EKF, expert, keepdims=False)
        out_RF = jax.lax.dot_general(x_RK, w_KF, (((1,), (contract - 1,)), ((), ())))
        return jax.lax.dynamic_update_slice_in_dim(out_MF, out_RF, first_row, axis=0)

    width = w_EKF.shape[3 - contract]
    start = jnp.zeros((padded_MK.shape[0], width), x_MK.dtype)
    return _each_tile(sizes_E, x_MK.shape[0], body, start)[: x_MK.shape[0]]


def _tiled_weights(x_MK, d_out_MF, sizes_E, dtype):
    """Each group's x^T d_out, [E, K, F]; summed in float32."""
    padded_MK, size = _padded(x_MK, sizes_E.size)
    d_padded_MF, _ = _padded(d_out_MF, sizes_E.size)

    def body(expert, first_row, rows, d_w_EKF):
        inside_R1 = jnp.arange(size)[:, None] < rows
        x_RK = jax.lax.dynamic_slice_in_dim(padded_MK, first_row, size)
        d_out_RF = jax.lax.dynamic_slice_in_dim(d_padded_MF, first_row, size)
        d_w_KF = jax.lax.dot_general(
            x_RK,
            jnp.where(inside_R1, d_out_RF, 0),
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return d_w_EKF.at[expert].add(d_w_KF)

    start = jnp.zeros((sizes_E.size, x_MK.shape[1], d_out_MF.shape[1]), jnp.float32)
    return _each_tile(sizes_E, x_MK.shape[0], body, start).astype(dtype)
