"""How PEFT calls the adapters of a model, and how its tensors hold our factors. No jax here.

PEFT names modules as transformers has them in memory, which is not always how files have them:
experts are one parameter there, so are their gate and up projections.

A weight [*E, in, out] of ours has a [*E, in, R] and b [*E, R, out]; PEFT's lora_A is [R, in], its
lora_B [out, R]; of experts [E R, in] and [out, R E]. Where several of ours are one of theirs, the
ranks stand one after the other, and B is zero where a rank is not the output's own.

D: embed_dim, R: rank, E: expert, V: vocabulary.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxsft.convert.families import tensor_table
from jaxsft.convert.families.tensor_table import Table, Tensor, Tree, Weight

# Of an expert, inside one parameter of all of them; w1 to w3 are Mixtral's names in files.
_FUSED_EXPERTS = {
    **{"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"},
    **{"w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"},
}
_EXPERT = re.compile(r"(.+\.experts)\.\d+\.(\w+)\.weight")
_ROUTERS = (".mlp.gate", ".mlp.router")  # no nn.Linear: PEFT adapts their parameter
InMemory = Callable[[str], str]


class Part(NamedTuple):
    """One of our weights in one of theirs."""

    path: str  # dotted, of our leaf
    layer: tuple[int, ...]  # its index in the leaf; () of a leaf of no layer
    outputs: np.ndarray  # which of their outputs are this weight's, in our order


@dataclasses.dataclass(frozen=True)
class Target:
    """One module or parameter that PEFT may adapt."""

    key: str  # its name, a parameter's with that of its module
    parts: tuple[Part, ...]  # in their order
    num_outputs: int
    num_experts: int | None = None  # None: a matrix by itself

    @property
    def is_embedding(self) -> bool:
        return self.parts[0].path == "embedding_VD"

    @property
    def is_parameter(self) -> bool:
        return self.num_experts is not None or self.module.endswith(_ROUTERS)

    @property
    def module(self) -> str:
        """The module that holds it."""
        return self.key.removesuffix(".weight") if self.num_experts is None else _above(self.key)

    def prefix(self, adapted: Iterable[str]) -> str:
        """What its tensors' names begin with.

        Args:
            adapted: the keys of all that an adapter adapts. Of two parameters of one module the
                first one's adapter lies inside the other's.
        """
        if self.num_experts is None or not self.key.endswith("gate_up_proj"):
            return self.module
        inside = f"{self.module}.down_proj" in adapted
        return f"{self.module}.base_layer" if inside else self.module


def targets(table: Table, shapes: Tree, paths: Iterable[str], in_memory: InMemory) -> list[Target]:
    """Each module and parameter of theirs that holds one of our leaves; all of its parts.

    Args:
        shapes: of the model's own parameters.
        paths: dotted, of the leaves.
    """
    wanted = set(paths)
    found: dict[str, list[tuple[Tensor, Weight]]] = {}
    for tensor in tensor_table.tensors(shapes, table):
        for weight in tensor.weights:
            found.setdefault(key_of(tensor.name, in_memory), []).append((tensor, weight))
    return [
        _target(key, weights)
        for key, weights in found.items()
        if any(".".join(weight.row.ours) in wanted for _, weight in weights)
    ]


def key_of(name: str, in_memory: InMemory) -> str:
    """What PEFT calls the module or parameter that holds a tensor of a file."""
    if match := _EXPERT.fullmatch(name):
        return in_memory(f"{match[1]}.{_FUSED_EXPERTS[match[2]]}")
    return in_memory(name)


def _target(key: str, weights: Sequence[tuple[Tensor, Weight]]) -> Target:
    """Of all weights under one key: those of each expert are one part."""
    parts: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}
    num_outputs, num_experts = 0, None
    for tensor, weight in weights:
        of_expert = len(weight.index) == 2
        fused = len(weight.shape) == 3 and weight.row.num_indices == 1 and ".experts." in key
        part = (".".join(weight.row.ours), weight.index[:1])
        if of_expert or fused:
            num_experts = max(
                num_experts or 0, weight.index[1] + 1 if of_expert else weight.shape[0]
            )
        if part in parts:
            continue
        count = _num_outputs(weight)
        if len(tensor.weights) == 1:  # also of experts: gate and up come one after the other
            parts[part] = np.arange(num_outputs, num_outputs + count)
        else:
            parts[part] = _outputs_in(tensor, weight)
        num_outputs += count
    made = tuple(Part(path, layer, outputs) for (path, layer), outputs in parts.items())
    return Target(key, made, num_outputs, num_experts)


def _num_outputs(weight: Weight) -> int:
    layout = weight.row.layout
    match layout:
        case tensor_table.Layout.HEADS_OUT:
            return weight.shape[-2] * weight.shape[-1]
        case _:
            return weight.shape[-1]


def _outputs_in(tensor: Tensor, weight: Weight) -> np.ndarray:
    """Where the outputs of one weight are in a tensor that holds several."""
    shape = tensor.their_shape
    last = weight.row.fusion is tensor_table.Fusion.ALTERNATING
    numbers = np.arange(shape[-1] if last else shape[0])
    whole = np.broadcast_to(
        numbers if last else numbers.reshape(-1, *(1 for _ in shape[1:])), shape
    )
    part = tensor.part(whole, weight)
    if last:
        return part.reshape(-1, part.shape[-1])[0]
    return part.reshape(_num_outputs(weight), -1)[:, 0]


class Factors(NamedTuple):
    """An adapter of one of our weights, as our parameters have it."""

    a: np.ndarray  # [*E, in, R]
    b: np.ndarray  # [*E, R, out]
    scale: float
    magnitude: np.ndarray | None = None  # [out]


def fused(target: Target, factors: Mapping[str, Factors]) -> Factors:
    """The adapter of a whole target of those of its parts, [*E, in, R] and [*E, R, out].

    Args:
        factors: by path; a part that has none is not changed.
    """
    there = [(part, factors[part.path]) for part in target.parts if part.path in factors]
    if len(target.parts) == 1:
        return there[0][1]
    scale, first = there[0][1].scale, there[0][1]
    a = np.concatenate([one.a for _, one in there], axis=-1)
    b = np.zeros((*first.b.shape[:-2], a.shape[-1], target.num_outputs), np.float32)
    magnitude = None if first.magnitude is None else np.empty(target.num_outputs, np.float32)
    begin = 0
    for part, one in there:
        rank = one.b.shape[-2]
        b[..., begin : begin + rank, part.outputs] = one.b * np.float32(one.scale / scale)
        begin += rank
        if magnitude is not None:
            assert one.magnitude is not None
            magnitude[part.outputs] = one.magnitude
    return Factors(a, b, scale, magnitude)


def to_peft(target: Target, whole: Factors) -> dict[str, np.ndarray]:
    """The tensors of an adapter of a whole target, by the ends of their names."""
    if target.num_experts is not None:
        a = whole.a.swapaxes(-1, -2).reshape(-1, whole.a.shape[-2])
        b = whole.b.transpose(2, 1, 0).reshape(target.num_outputs, -1)
    else:
        a, b = whole.a.T, whole.b.T
    names = _names(target)
    found = {names[0]: np.ascontiguousarray(a), names[1]: np.ascontiguousarray(b)}
    if whole.magnitude is not None:
        found["lora_magnitude_vector"] = whole.magnitude
    return found


def from_peft(target: Target, tensors: Mapping[str, np.ndarray], scale: float) -> Factors:
    """What `to_peft` was given."""
    names = _names(target)
    a, b = (tensors[name].astype(np.float32) for name in names)
    if target.num_experts is not None:
        a = a.reshape(target.num_experts, -1, a.shape[-1]).swapaxes(-1, -2)
        b = b.reshape(b.shape[0], -1, target.num_experts).transpose(2, 1, 0)
    else:
        a, b = a.T, b.T
    return Factors(a, b, scale, tensors.get("lora_magnitude_vector"))


def of_part(part: Part, whole: Factors) -> Factors:
    """The adapter of one of our weights: all ranks, and the outputs that are its own."""
    magnitude = None if whole.magnitude is None else whole.magnitude[part.outputs]
    return Factors(whole.a, whole.b[..., part.outputs], whole.scale, magnitude)


def _names(target: Target) -> tuple[str, str]:
    if target.is_embedding:
        return "lora_embedding_A", "lora_embedding_B"
    return "lora_A.weight", "lora_B.weight"


def _above(name: str) -> str:
    return name.rpartition(".")[0]
