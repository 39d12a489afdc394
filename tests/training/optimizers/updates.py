"""Updates of an optimizer alone, from made gradients, for tests of its laws."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jaxsft import config
from jaxsft.devices import mesh
from jaxsft.model import moe_settings, state
from jaxsft.training.optimizer import Optimizer

# Of experts too, one of them shared; sides that the meshes below split.
MODEL = dataclasses.replace(
    tiny.SETTINGS,
    moe=moe_settings.MoeSettings(
        num_experts=4,
        experts_per_token=2,
        expert_mlp_dim=24,
        normalised_shares=True,
        shared_mlp_dim=16,
        expert_biases=True,
        init_stddev=0.2,
    ),
)
RATE = 1e-2
# One of each kind of parameter: more would only take longer to compile.
LEAVES = (
    *("embedding_VD", "layers.mlp_norm.scale_D"),
    *("layers.attention.q_DNH", "layers.attention.o_NHD"),
    *("layers.moe.gate_EDF", "layers.moe.down_EFD", "layers.moe.router_DE"),
    *("layers.moe.gate_bias_EF", "layers.moe.shared.share_D1"),
)
NEW = ("adamw_8bit", "adafactor", "lion", "muon", "sgd")  # beside adamw


def optim_config(name: Any = "adamw", **fields) -> config.Optim:
    return config.Optim(peak_lr=RATE, name=name, weight_decay=0.1, **fields)


def gradients(params, seed):
    """Of rows of very different sizes, as those of rare and of frequent tokens are."""
    rng = np.random.default_rng(seed)

    def made(leaf):
        sizes = 10.0 ** rng.uniform(-4, 0, (*leaf.shape[:-1], 1))
        return (sizes * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map(made, params)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Parameters and an optimizer's state over a mesh, after some updates."""

    optimizer: Optimizer
    placement: tuple
    params: state.Params
    opt_state: Any

    def after(self, *seeds, state_of=None):
        """Updated by the gradients of these seeds; from another state, where it is given."""
        params, opt_state = state_of or (self.params, self.opt_state)
        update = jax.jit(self._update, out_shardings=self.placement)
        for seed in seeds:
            grads = jax.device_put(gradients(self.params, seed), self.placement[0])
            params, opt_state = update(params, opt_state, grads)
        return dataclasses.replace(self, params=params, opt_state=opt_state)

    def _update(self, params, opt_state, grads):
        moves, opt_state = self.optimizer.update(grads, opt_state, params)
        return jax.tree.map(lambda p, u: p - RATE * u, params, moves), opt_state


def fresh(optimizer, sizes=tiny.ONE_DEVICE, model=MODEL):
    devices = jax.devices() if sizes != tiny.ONE_DEVICE else jax.devices()[:1]
    over = mesh.make_mesh(sizes, devices)
    _, shapes, axes = state.abstract(model, "float32", "none")
    _, placed = state.split(state.shardings(shapes, axes, over), LEAVES)
    _, shapes = state.split(shapes, LEAVES)
    placement = placed, optimizer.placement(shapes, placed, mesh.sharding(over))
    _, host = state.split(tiny.host_params(model), LEAVES)
    params = jax.device_put(host, placed)
    opt_state = jax.jit(optimizer.init, out_shardings=placement[1])(params)
    return Trained(optimizer, placement, params, opt_state)


def trained_leaf(optimizer, name, start, grads, rate=RATE):
    """One parameter of this name, after these gradients one after the other."""
    params = {name: jnp.asarray(start)}
    opt_state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for grad in grads:
        moves, opt_state = update({name: jnp.asarray(grad)}, opt_state, params)
        params = {name: params[name] - rate * moves[name]}
    return np.asarray(params[name]), opt_state
