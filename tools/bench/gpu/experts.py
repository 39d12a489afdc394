"""Back ends of the mixture of experts: forward and backward of one layer, in bfloat16.

N: token, D: embed_dim, F: mlp_dim of an expert, E: expert, X: experts of a token.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from bench.gpu import results, timing
from jaxsft.kernels.experts import gated_mlps

_PALLAS = "jax_ragged_dot_use_gpu_pallas_triton_lowering"


def measure() -> None:
    expected = None
    names = ["dense", "ragged", "ragged_pallas", "tiled"]
    if lacking := not hasattr(jax.config, _PALLAS):  # jax has it up to 0.11
        names.remove("ragged_pallas")
    for name in names:
        try:
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


def _measure(name: str, expected: list[np.ndarray] | None) -> list[np.ndarray]:
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
    found = [np.asarray(array, np.float32) for array in (out, dx, dw.gate_EDF, dw.down_EFD)]
    ms = timing.milliseconds(lambda: program(x_BND, weights), 2)
    results.put(
        "experts",
        name=name,
        ms=ms,
        tflops=18 * N * X * D * F / ms / 1e9,  # three products, three times each
        compile_s=seconds,
        differs_from_dense=max(map(timing.relative, expected or found, found)),
        temp_MiB=program.memory_analysis().temp_size_in_bytes / 2**20,
    )
    return expected or found


def _sizes() -> tuple[int, int, int, int, int]:
    return (64, 16, 16, 8, 2) if results.is_tiny() else (8192, 2048, 768, 128, 8)


def _example():
    """Tokens, the experts that each goes to, their weights, and the output's cotangents."""
    N, D, F, E, X = _sizes()
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(scale * rng.normal(size=shape), jnp.bfloat16)

    x_BND = normal(1, N, D)
    order_NE = np.argsort(rng.random((N, E)), axis=1)
    chosen_BNX = jnp.asarray(order_NE[:, :X].reshape(1, N, X), jnp.int32)
    weights = gated_mlps.Experts(
        normal(E, D, F, scale=D**-0.5),
        normal(E, D, F, scale=D**-0.5),
        normal(E, F, D, scale=F**-0.5),
    )
    return x_BND, chosen_BNX, weights, normal(1, N, D)
