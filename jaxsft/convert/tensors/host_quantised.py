"""A tensor of a file in 8 or 4 bits, made on the host, so that no device holds it whole."""

from concurrent.futures import Executor

import jax
import numpy as np

from jaxsft.model.quantised import Quantised

_CHUNK_ITEMS = 2**16  # float32 numbers: within the second-level cache


def of_tensor(weight_x: np.ndarray, like: Quantised, threads: Executor) -> Quantised:
    """The tensor, quantised as `like` is; the parts are numpy's.

    In slices of outputs, whose scales know nothing of each other.

    Args:
        weight_x: [*E, *I, *O], of any float dtype and order.
        like: the shapes of the leaf that it goes into.
    """
    if weight_x.ndim > like.num_inputs + like.num_outputs:
        ones = [of_tensor(one, like, threads) for one in weight_x]
        return jax.tree.map(lambda *parts: np.stack(parts), *ones)
    num_columns = weight_x.shape[-1]
    step = max(1, _CHUNK_ITEMS * num_columns // weight_x.size)
    cuts = [slice(start, start + step) for start in range(0, num_columns, step)]

    def made(cut: slice) -> Quantised:
        with np.errstate(invalid="ignore"):  # `is_finite` finds it
            return like.of(weight_x[..., cut])

    slices = threads.map(made, cuts)
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *slices)


def is_finite(weight: Quantised) -> bool:
    """Whether the tensor's numbers were: one that isn't makes its scale so."""
    parts = [weight.scales if weight.kind == "int8" else weight.step]
    return all(bool(np.isfinite(part.astype(np.float32)).all()) for part in parts)
