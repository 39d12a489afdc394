"""Whether adapters move: one that stays as it began was trained on nothing.

A factor has a gradient where the other one of its adapter isn't zero. So one that begins at zero
moves in the first update, the other one from the second on; where neither does, both move at once.
Where both are zeros, as a layer that a foreign adapter leaves out has them, neither ever does.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft.errors import ConfigError, known_to_all
from jaxsft.model import adapter
from jaxsft.model.layer_stacks import LAYERS
from jaxsft.model.state import Params

_LAST = 2  # update that is watched
_NAMED = 4  # leaves in a warning, at most
_Leaves = dict[str, jax.Array]


class Movement:
    """Follows the adapters of a run through its first updates.

    Args:
        trained: parameters that the run begins with.
        step: that it begins with; a run that goes on was watched before.
    """

    def __init__(self, trained: Params, step: int):
        # Copies: the first step takes over the memory of what it is given.
        self._begun = jax.tree.map(jnp.copy, _factors(trained)) if step == 0 else {}
        zeros = jax.tree.map(jnp.zeros_like, self._begun)
        self._has_gradient = {_other(n): f for n, f in _differ(self._begun, zeros).items()}
        self._is_used = {
            n: f | self._has_gradient[_other(n)] for n, f in self._has_gradient.items()
        }
        self._seen = 0

    def after(self, done: int, skipped: jax.Array | int, trained: Params) -> list[str]:
        """A warning where some of what should have moved by now did not.

        Args:
            done: steps since the run began, of which `skipped` changed nothing.

        Raises:
            ConfigError: nothing moved at all.
        """
        if not self._begun or not self._seen < (updates := done - int(skipped)) <= _LAST:
            return []
        self._seen = updates
        moved = _differ(_factors(trained), self._begun)
        due = self._is_used if updates == _LAST else self._has_gradient
        still = {n: np.flatnonzero(due[n] & ~moved[n]) for n in due}
        if updates == _LAST:
            self._begun = {}
        return _said(updates, still, sum(int(flags.sum()) for flags in due.values()))


def _said(updates: int, still: dict[str, np.ndarray], due: int) -> list[str]:
    found = {name: layers.tolist() for name, layers in still.items() if layers.size}
    count = sum(map(len, found.values()))
    if not count:
        return []
    if count == due:
        raise known_to_all(
            ConfigError(
                f"config.lora: nothing moved in update {updates}, neither {next(iter(found))} nor"
                " any other factor: is config.optim.peak_lr too small to change them?"
            )
        )
    shown = [
        f"{name} of layer {', '.join(map(str, layers))}" if name.startswith(LAYERS) else name
        for name, layers in found.items()
    ]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return [
        f"warning: no gradient reached {count} of {due} factors by update {updates}:"
        f" {'; '.join(shown[:_NAMED])}{more}; they are as they began"
    ]


def _factors(trained: Params) -> _Leaves:
    flat = nnx.traversals.flatten_mapping(trained)
    return {".".join(path): leaf for path, leaf in flat.items() if _is_factor(path)}


def _other(name: str) -> str:
    """The other factor of the adapter."""
    above, _, factor = name.rpartition(".")
    return f"{above}.{adapter.A if factor == adapter.B else adapter.B}"


def _is_factor(path: tuple[str, ...]) -> bool:
    return path[-1] in (adapter.A, adapter.B) and path[-2].endswith(adapter.SUFFIX)


def _differ(some: _Leaves, others: _Leaves) -> dict[str, np.ndarray]:
    """Whether any number of a leaf differs, for each layer; one answer for a leaf of no layer."""
    return {name: np.asarray(flags) for name, flags in _flags(some, others).items()}


@jax.jit
def _flags(some: _Leaves, others: _Leaves) -> _Leaves:
    def flags(name: str) -> jax.Array:
        differs = some[name] != others[name]
        return differs.reshape(differs.shape[0] if name.startswith(LAYERS) else 1, -1).any(axis=1)

    return {name: flags(name) for name in some}
