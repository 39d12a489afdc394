"""Back ends of the mixture of experts: forward and backward of one layer, in bfloat16.

N: token, D: embed_dim, F: mlp_dim of an expert, E: expert, X: experts of a token.
"""

import functools
import time
from unittest import mock

import jax
import jax.numpy as jnp

from bench.gpu import expert_tiles, results, timing
from jaxsft.kernels.experts import gated_mlps, triton

_PALLAS = "jax_ragged_dot_use_gpu_pallas_triton_lowering"


def measure() -> None:
    """Each back end, those last that may take long; and the tilings of our kernels."""
    if results.is_tiny():
        interpreted = functools.partial(triton.dot, interpret=True)
        with mock.patch.object(triton, "dot", interpreted):
            _measure_all()
    else:
        _measure_all()


def _measure_all() -> None:
    expected = None
    names = ["dense", "triton", "tilings", "tiled", "ragged", "ragged_pallas"]
    if lacking := not hasattr(jax.config, _PALLAS):  # jax has it up to 0.11
        names.remove("ragged_pallas")
    for name in names:
        try:
            if name == "tilings":
                expert_tiles.measure(_sizes())
                continue
            if name == "ragged_pallas":
                jax.config.update(_PALLAS, True)
            expected = _measure(name, expected)
        except Exception as error:
            results.put("experts", name=name, error=results.said(error))
        finally:
            if name == "ragged_pallas":
                jax.config.update(_PALLAS, False)
    if lacking:
        results.put("experts", name="ragged_pallas", left_out=f"this jax has no {_PALLAS}")


def _measure(name: str, expected: list[jax.Array] | None) -> list[jax.Array]:
    """The output and gradients that the others are compared with: those of the first."""
    N, D, F, E, X = _sizes()
    x_BND, chosen_BNX, weights, cotangent_BND = _example()
    shares_BNX = jnp.full((1, N, X), 1 / X, jnp.float32)

    def activate(gate, up):
        return jax.nn.silu(gate) * up

    def loss(x_BND, weights):
        back_end = name.partition("_")[0]
        out = gated_mlps.mix(x_BND, chosen_BNX, shares_BNX, weights, activate, back_end)
        return jnp.vdot(out, cotangent_BND.astype(jnp.float32)), out

    since = time.time()
    lowered = jax.jit(jax.grad(loss, (0, 1), has_aux=True)).lower(x_BND, weights)
    program = lowered.compile()
    seconds = time.time() - since
    (dx, dw), out = program(x_BND, weights)
    found = [out, dx, dw.gate_EDF, dw.down_EFD]
    repeated = jax.tree.map(jnp.array_equal, ((dx, dw), out), program(x_BND, weights))
    ms = timing.milliseconds(lambda: program(x_BND, weights), 2)
    results.put(
        "experts",
        name=name,
        ms=ms,
        tflops=18 * N * X * D * F / ms / 1e9,  # three products, three times each
        compile_s=seconds,
        differs_from_dense=max(map(float, map(_relative, expected or found, found))),
        bitwise_repeatable=all(map(bool, jax.tree.leaves(repeated))),
        temp_MiB=program.memory_analysis().temp_size_in_bytes / 2**20,
    )
    return expected or found


def _sizes() -> expert_tiles.Sizes:
    """Of Qwen3-30B-A3B, for two rows of 4,096."""
    tiny, real = (64, 16, 32, 8, 2), (8192, 2048, 768, 128, 8)
    return expert_tiles.Sizes(*(tiny if results.is_tiny() else real))


@functools.cache
def _example():
    """Tokens, the experts that each goes to, their weights, and the output's cotangents.

    Made on the device: a host takes longer for so many numbers than all the rest.
    """
    N, D, F, E, X = _sizes()
    keys = iter(jax.random.split(jax.random.key(0), 6))

    def normal(*shape: int, scale: float = 1.0) -> jax.Array:
        return scale * jax.random.normal(next(keys), shape, jnp.bfloat16)

    chosen_BNX = jax.lax.top_k(jax.random.uniform(next(keys), (1, N, E)), X)[1]
    weights = gated_mlps.Experts(
        normal(E, D, F, scale=D**-0.5),
        normal(E, D, F, scale=D**-0.5),
        normal(E, F, D, scale=F**-0.5),
    )
    return normal(1, N, D), chosen_BNX, weights, normal(1, N, D)


@jax.jit
def _relative(expected: jax.Array, found: jax.Array) -> jax.Array:
    """The norm of the difference over that of the expected."""
    expected, found = (jnp.ravel(one).astype(jnp.float32) for one in (expected, found))
    return jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
