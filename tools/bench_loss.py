"""The chunked cross-entropy against all logits at once: seconds and temporary memory.

python tools/bench_loss.py [--tokens=4096] [--dim=256] [--vocab=32000] [--supervised=0.4]

Loss and gradients by hidden and head, float32; the two in turn, and the median of the ratios of
each round.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import app, flags

_TOKENS = flags.DEFINE_integer("tokens", 4096, "of the batch", 1)
_DIM = flags.DEFINE_integer("dim", 256, "of the embedding", 1)
_VOCAB = flags.DEFINE_integer("vocab", 32000, "columns of the head", 1)
_SUPERVISED = flags.DEFINE_float("supervised", 0.4, "share of the tokens with a loss", 0, 1)
_TIED = flags.DEFINE_bool("tied", False, "the head is an embedding, [V, D]")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "of both", 1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"{argv[1]}: this program takes flags only")
    import jax

    from jaxsft.kernels.loss.cross_entropy import cross_entropy
    from jaxsft.kernels.loss.form import LossForm, Targets

    arrays, weights = _inputs()
    tied = _TIED.value
    form = LossForm(vocab_size=_VOCAB.value, tied=tied)

    def chunked(hidden, head, targets, weights):
        sums: Any = cross_entropy(hidden, head, Targets(targets, weights), form)
        return sums[0].nll

    forms = {"plain": functools.partial(_plain, tied), "chunked": chunked}
    inputs = (*arrays, weights)
    compiled = {
        name: jax.jit(jax.value_and_grad(form, argnums=(0, 1))).lower(*inputs).compile()
        for name, form in forms.items()
    }
    losses = {name: float(run(*inputs)[0]) for name, run in compiled.items()}
    seconds = _interleaved(compiled, inputs)
    memory = {n: c.memory_analysis().temp_size_in_bytes for n, c in compiled.items()}
    for name in forms:
        print(
            f"{name:8} median {1e3 * statistics.median(seconds[name]):8.1f} ms, best"
            f" {1e3 * min(seconds[name]):8.1f} ms; temporaries {memory[name] / 2**20:7.1f} MiB;"
            f" loss {losses[name]:.6f}"
        )
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["chunked"], strict=True)]
    share = memory["plain"] / memory["chunked"]
    print(
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}: chunked is"
        f" {statistics.median(ratios):.2f}x as fast (median of {len(ratios)} paired ratios,"
        f" {min(ratios):.2f} to {max(ratios):.2f}), with 1/{share:.2f} of the memory"
    )


def _inputs() -> tuple[tuple[Any, ...], Any]:
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (1, _TOKENS.value)
    head = (_VOCAB.value, _DIM.value) if _TIED.value else (_DIM.value, _VOCAB.value)
    hidden = rng.normal(size=(*shape, _DIM.value)).astype(np.float32)
    table = 0.02 * rng.normal(size=head).astype(np.float32)
    targets = rng.integers(0, _VOCAB.value, shape).astype(np.int32)
    weights = (rng.random(shape) < _SUPERVISED.value).astype(np.float32)
    return tuple(map(jnp.asarray, (hidden, table, targets))), jnp.asarray(weights)


def _plain(tied: bool, hidden: Any, head: Any, targets: Any, weights: Any) -> Any:
    import jax
    import jax.numpy as jnp

    logits = jnp.einsum("BTD,VD->BTV" if tied else "BTD,DV->BTV", hidden, head)
    label = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (jax.nn.logsumexp(logits, axis=-1) - label))


def _interleaved(compiled: dict[str, Callable[..., Any]], inputs: Any) -> dict[str, list[float]]:
    import jax

    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(_ROUNDS.value):
        for name, run in compiled.items():
            started = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            seconds[name].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    app.run(main)
