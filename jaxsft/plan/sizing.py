"""What a step will take, from sizes alone: to choose what is worth the minutes of a compilation.

The seconds are only good for an order. No compiled step needs fewer bytes than the least ones.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft.config import Config
from jaxsft.devices import mesh as mesh_lib
from jaxsft.devices.chips import CHIPS
from jaxsft.model import settings, state
from jaxsft.model.attention.choice import kind_of
from jaxsft.model.remat import KEPT, OFFLOADED, candidates
from jaxsft.plan import efficiencies
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.kernels import Kernel
from jaxsft.plan.topology import Topology
from jaxsft.training import groups, mesh_fit, optim
from jaxsft.training.flops import forward_flops, recomputed_flops, training_flops
from jaxsft.training.teacher import Teacher

REMATS = tuple(KEPT)  # from the least recomputation to the most
_leaves = functools.cache(mesh_fit.leaves)  # of a teacher, for the guesses of a search
# Of a number as it is kept; what float16 holds is kept so too.
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "nf4": 0.5}
_GATHERED = ("embed", "expert_embed")  # logical axes whose parts are put together for each layer


@dataclasses.dataclass(frozen=True)
class Guess:
    seconds: float
    state_bytes: float  # of parameters, their gradients, the optimizer and a teacher, on a chip
    kept_bytes: float  # of what a micro-batch's forward pass keeps, at least


@dataclasses.dataclass(frozen=True)
class Guesser:
    """What all guesses of one model share."""

    model: settings.DecoderSettings
    leaves: list[mesh_fit.Leaf]
    trained_share: float  # of the parameters
    optimizer_bytes: float  # for each parameter, in the mean over all
    topology: Topology
    rows: BatchLoad
    teacher: Teacher | None = None

    def guess(self, config: Config) -> Guess:
        """For a config whose mesh has no open axes."""
        sizes = {axis: size or 1 for axis, size in dataclasses.asdict(config.mesh).items()}
        train, length = config.train, config.data.sequence_length
        here, gathered = held(self.leaves, sizes)
        tokens = (
            train.batch_size
            * length
            // (mesh_lib.parts("batch", sizes) * mesh_lib.parts("sequence", sizes))
        )
        gradients = 2  # at the least
        return Guess(
            seconds=self._seconds(config, sizes, here, gathered, tokens),
            state_bytes=here
            * (kept_bytes(config) + gradients * self.trained_share + self.optimizer_bytes)
            + teacher_bytes(config, self.teacher, sizes),
            kept_bytes=self._kept(config, sizes, tokens // train.microbatches),
        )

    def _kept(self, config: Config, sizes: dict[str, int], tokens: int) -> float:
        """Each layer's input; without recomputation what its widest products read, too."""
        m = self.model
        width = 0 if config.model.remat == OFFLOADED else m.embed_dim
        if config.model.remat == REMATS[0] and m.moe is None:
            width += (kind_of(m).mixed_dims(m) + 2 * m.mlp_dim) // sizes["tensor"]
        return m.num_layers * tokens * width * np.dtype(config.model.dtype).itemsize

    def _seconds(
        self, config: Config, sizes: dict[str, int], here: float, gathered: float, tokens: int
    ) -> float:
        chip = self.topology.chip or CHIPS["TPU v5p"]  # of a CPU nothing is known, but an order
        slots = config.train.batch_size * config.data.sequence_length
        counts = self.rows.counts(slots, self.model)
        flops = training_flops(self.model, counts, self.rows.supervised * slots)
        flops += recomputed_flops(self.model, counts, candidates(config.model.remat)[0])
        if self.teacher is not None:
            theirs = self.rows.counts(slots, self.teacher.settings)
            flops += forward_flops(self.teacher.settings, theirs, self.rows.supervised * slots)
        flops /= self.topology.num_devices
        inside, outside = self._sent(config, sizes, here, gathered, tokens)
        link_bandwidth = self.topology.links * chip.link_bandwidth
        sending = max(inside / link_bandwidth, outside / chip.network_bandwidth)
        longest = efficiencies.expected_seconds(chip, [Kernel(flops, 0.0)], sending)
        # Of two that take as long, the lighter one.
        return longest + 1e-3 * (flops / chip.bf16_flops + sending)

    def _sent(
        self, config: Config, sizes: dict[str, int], here: float, gathered: float, tokens: int
    ) -> tuple[float, float]:
        """Bytes that a chip sends in a step: all of them, and those that leave its slice or box."""
        m, slices = self.model, self.topology.num_slices
        # Two gathers in bfloat16 and a sum in float32, for each micro-batch.
        parameters = config.train.microbatches * 8 * (gathered - here)
        replicas = 2 * 4 * here * (sizes["data"] - 1) / sizes["data"]
        activations = 2 * m.num_layers * tokens * m.embed_dim
        keys = 2 * m.num_layers * tokens * kind_of(m).read_by_others(m)
        rest = 4 * activations * 2 * (sizes["tensor"] - 1) / sizes["tensor"]
        rest += 3 * keys * (sizes["context"] - 1)
        rest += 3 * activations * (sizes["expert"] - 1)
        if slices == 1:
            return parameters + replicas + rest, 0.0
        if sizes["data"] % slices == 0:
            return parameters + replicas + rest, replicas
        shared = self.topology.num_devices / sizes["data"]
        crossing = (slices - 1) / max(shared - 1, 1)
        return parameters + replicas + rest, crossing * parameters + replicas


def guesser(
    config: Config,
    model: settings.DecoderSettings,
    topology: Topology,
    rows: BatchLoad,
    teacher: Teacher | None = None,
) -> Guesser:
    leaves = mesh_fit.leaves(model)
    return Guesser(model, leaves, *trained_state(config, model, leaves), topology, rows, teacher)


def teacher_bytes(config: Config, teacher: Teacher | None, sizes: dict[str, int]) -> float:
    """Of a teacher's parameters on a chip; 0 without one."""
    if teacher is None or config.distil is None:
        return 0.0
    asked, found = config.distil.dtype, 0.0
    for leaf in _leaves(teacher.settings):
        dtype = teacher.stored.get(leaf[0], "float32") if asked == "source" else asked
        found += held([leaf], sizes)[0] * _BYTES[dtype]
    return found


def trained_state(
    config: Config, model: settings.DecoderSettings, leaves: list[mesh_fit.Leaf]
) -> tuple[float, float]:
    """The share of the parameters that trains; the optimizer's bytes for each parameter of all.

    Adapters, which are few, count as none.
    """
    if _has_adapters(config):
        return 0.0, 0.0
    shapes = nnx.traversals.unflatten_mapping(
        {
            tuple(name.split(".")): jax.ShapeDtypeStruct(shape, jnp.float32)
            for name, shape, _ in leaves
        }
    )
    frozen = groups.frozen_names(groups.treatments(config, model, shapes))
    trained, _ = state.split(shapes, frozen)
    sizes = [sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(t)) for t in (trained, shapes)]
    share = sizes[0] / sizes[1]
    return share, share * optim.make_optimizer(config.optim).bytes_per_parameter(trained)


def kept_bytes(config: Config) -> float:
    """Of each parameter, as it is kept; beside adapters at the least."""
    if not _has_adapters(config):
        return np.dtype(config.model.parameter_dtype).itemsize
    # A file's dtype is not known here: none has less than two bytes.
    return _BYTES.get(config.model.frozen_dtype, 2)


def _has_adapters(config: Config) -> bool:
    return config.lora is not None or config.model.adapter is not None


def held(leaves: list[mesh_fit.Leaf], sizes: dict[str, int]) -> tuple[float, float]:
    """Parameters of a chip: those that it holds, and those that it holds once all are gathered."""
    here = gathered = 0.0
    for _, shape, axes in leaves:
        fitted = mesh_lib.fitted(shape, axes, sizes)
        size = math.prod(shape)
        here += size / math.prod(mesh_lib.parts(axis, sizes) for axis in fitted)
        others = (axis for axis in fitted if axis not in _GATHERED)
        gathered += size / math.prod(mesh_lib.parts(axis, sizes) for axis in others)
    return here, gathered
