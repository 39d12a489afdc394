"""Arrays have the dimensions that their names end in: looked at in each call that tests make.

`checked_imports` says in which functions. Within one call a letter has one size, over all
arguments, the fields of dataclasses among them, and what comes back. Under jit that is looked at
while tracing, and never again.

    attend(q_BTNH, kv, ...)    q_BTNH (2, 12, 4, 8), kv.k_BSKH (2, 12, 8, 2)
    ShapeError: kernels.attention.attend.attend: kv.k_BSKH (2, 12, 8, 2) has H=2, but q_BTNH has H=8

A lower-case x in a name stands for any dimensions; a name in front of a dataclass or of a tree of
arrays gives the dimensions in front of all of its arrays, as in `routing_L`.
"""

import copy
import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import numpy as np
from flax import nnx

ARRAYS = (jax.Array, np.ndarray, jax.ShapeDtypeStruct, nnx.Variable)
DTYPES = {
    **dict.fromkeys(("tokens_BT", "targets_BT", "segments_BT", "positions_BT"), np.int32),
    **dict.fromkeys(("sources_BT", "examples_BT", "ids_BTX", "teacher_ids_BTX"), np.int32),
    **dict.fromkeys(("weights_BT", "objective_weights_BT"), np.float32),
}
BACK_ENDS = ("attend", "blocked", "cudnn", "full", "splash", "triton")
# What comes back, where no name says it: the letters of each part, None for what is no array.
RESULTS: dict[str, Any] = {
    **{f"kernels.attention.{file}.attend": "BTNH" for file in BACK_ENDS},
    "kernels.experts.gated_mlps.mix": "BTD",
    "kernels.experts.gated_mlps.top_k": ("BTX", "BTX"),
    "kernels.experts.gated_mlps.spread": "BTE",
    "kernels.experts.grouped_dot.grouped_dot": "MF",
    "model.attention.grouped_queries.Attention.__call__": ("BTD", ""),
    "model.layers.Layer.__call__": ("BTD", None, ""),
    "model.layers.Scans.__call__": ("BTD", "", "L"),
    "model.mlp.Mlp.__call__": "BTD",
    "model.moe.Moe.__call__": ("BTD", ""),
    "model.norm.Norm.__call__": "BTD",
    "model.noise.token_keys": "BT",
    "model.noise.uniform": "BTD",
    "model.noise.noisy": "BTD",
    "model.attention.head_norm.HeadNorm.__call__": "BTNH",
    "model.rope.rotate": "BTNH",
    "model.rope.rotations": ("YBTR", "YBTR"),
    "model.rope.segment_lengths": "BT",
    "model.transformer.Decoder.__call__": "BTV",
    "model.transformer.Decoder.hidden": "BTD",
    "model.transformer.Decoder.hidden_and_routing": ("BTD", "L"),
    "model.transformer.Decoder.extend": ("BV", ""),
    "model.transformer.Decoder._run": ("BTD", "", "L"),
    "training.loss.loss_and_routing": ("", "L"),
    "training.loss._all_sums": (("", ""), "L"),
    "training.loss.routing_of": "L",
    "training.step.gradient_sums": (("", "L"), ""),
    "generation.generate.left_padded": ("BT", "BT"),
    "generation.sampling.next_tokens": "B",
    "generation.sampling.shaped": "BV",
    "generation.sampling._least": "B",
    "data.pack.packing.build_rows": "",
}
# Arrays whose dimensions another argument says.
SAID_ELSEWHERE: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "head": lambda arguments: arguments["form"].head_dims,
}
# Arrays of any dimensions: what is done to them goes by element, or is the same in any of them.
# All others whose names end in no dimensions have none.
ANY_DIMS = {
    "data.pack.packing.build_rows": {"order", "row_offsets"},  # of a plan, which is no such array
    "training.loader.Batches._costs": {"order", "row_offsets", "rows"},
    "kernels.attention.selftest._relative": {"expected", "actual"},
    "kernels.experts.tiles._each_tile": {"start"},
    "kernels.loss.chunks._product": {"a", "b"},
    "model.gradient_slot._sliced_before_cast": {"param"},
    "model.gradient_slot._with_slot": {"param", "slot"},
    "model.layers.Layer.__call__": {"cache"},  # of whatever kind its attention is
    "model.mlp.activate": {"x"},
    "model.moe.Moe._activate": {"gate", "up"},
    "model.norm.normalise": {"x", "scale", "bias"},
    "model.parameter._adapted_product": {"x"},
    "model.parameter._product": {"x", "held"},
    "model.parameter.product": {"x", "weight"},
    "model.vocabulary.changed_rows": {"table"},
    "model.vocabulary.by_token": {"table"},
}
ANOTHER_MODEL = {"teacher", "PlacedTeacher"}  # its parameters' letters have sizes of their own
ANY_TYPES = {"Adapted", "Quantised"}  # they stand in the place of a weight of any dimensions
WRAPPED: set[str] = set()

_SUFFIX = re.compile(r"_(x?[A-Z1-9]*[A-Z][A-Z1-9]*x?|x)$")


class ShapeError(AssertionError):
    pass


def letters_of(name: str) -> str | None:
    """The dimensions that a name ends in: "BTV" of logits_BTV; None where it says none."""
    found = _SUFFIX.search(name)
    return found[1] if found else None


class Call:
    """The letters of one call of a function, each with one size."""

    def __init__(self, function: str):
        self._function = function
        self._sizes = chex.Dimensions()
        self._first: dict[str, str] = {}  # the array that gave a letter its size

    def look(self, path: str, value: Any, front: str = "") -> None:
        """Checks all arrays of an argument, in dataclasses and in trees of parameters too.

        Args:
            front: dimensions in front of those that the arrays' names say.
        """
        name = path.rpartition(".")[2]
        if isinstance(value, ARRAYS):
            if name not in ANY_DIMS.get(self._function, ()):
                self.check(path, front + (letters_of(name) or ""), value)
        elif isinstance(value, Mapping):
            call = Call(self._function) if name in ANOTHER_MODEL else self
            call._look_in_tree(path, value)
        elif type(value).__name__ in ANY_TYPES:
            return
        elif dataclasses.is_dataclass(value) and _holds_arrays(type(value)):
            front += letters_of(name) or ""
            call = Call(self._function) if type(value).__name__ in ANOTHER_MODEL else self
            for field in dataclasses.fields(value):
                call.look(f"{path}.{field.name}", getattr(value, field.name), front)

    def _look_in_tree(self, path: str, tree: Mapping[Any, Any]) -> None:
        """By stack and module, which differ in L, F and N; parameters of layers are stacked."""
        for key, value in tree.items():
            letters = letters_of(str(key))
            if letters is not None and isinstance(value, ARRAYS):
                stacked = len(value.shape) == len(letters) + 1
                self.check(f"{path}.{key}", "_" * stacked + letters, value)
        for key, value in tree.items():
            if not isinstance(value, ARRAYS):
                inner = Call(self._function)
                inner._sizes = copy.copy(self._sizes)
                inner._first = {k: v for k, v in self._first.items() if k not in "LFN"}
                inner.look(f"{path}.{key}", value)

    def look_at_result(self, spec: Any, value: Any, path: str = "result") -> None:
        if isinstance(value, tuple):
            specs = spec if isinstance(spec, tuple) else (spec,) * len(value)
            for index, (one, part) in enumerate(zip(specs, value, strict=True)):
                self.look_at_result(one, part, f"{path}[{index}]")
        elif isinstance(value, ARRAYS):
            if spec is not None:
                self.check(path, spec, value)
        else:
            self.look(path, value, spec or "")

    def check(self, path: str, letters: str, array: Any) -> None:
        """
        Raises:
            ShapeError: the array has other dimensions than its name says, or a letter has one size
                here and another in an array before.
        """
        shape = tuple(array.shape)
        if "x" in letters:
            letters = letters.replace("x", "_" * (len(shape) - len(letters) + 1))
        if len(letters) != len(shape):
            raise self._error(path, shape, f"has {len(shape)} dimensions, not {letters!r}")
        for letter, size in zip(letters, shape, strict=True):
            if letter.isalpha() and letter not in self._first:
                self._first[letter] = path
                self._sizes[letter] = (size,)
        expected = self._sizes[letters.replace("_", "*")]  # None for any size
        for letter, size, known in zip(letters, shape, expected, strict=True):
            if known not in (size, None):
                first = self._first.get(letter)  # none of a digit
                other = f", but {first} has {letter}={known}" if first else ""
                raise self._error(path, shape, f"has {letter}={size}{other}")
        dtype = DTYPES.get(path.rpartition(".")[2], array.dtype)
        if array.dtype != dtype:
            raise self._error(path, shape, f"has dtype {array.dtype}, not {np.dtype(dtype)}")

    def _error(self, path: str, shape: tuple[int, ...], what: str) -> ShapeError:
        return ShapeError(f"{self._function}: {path} {shape} {what}")


@functools.cache
def _holds_arrays(kind: Any) -> bool:
    """Whether an annotation may mean arrays: of one, a tree or a dataclass with some."""
    if dataclasses.is_dataclass(kind):
        return any(
            letters_of(field.name) or _holds_arrays(field.type)
            for field in dataclasses.fields(kind)
        )
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, tuple):
        return any(map(_holds_arrays, typing.get_args(kind)))
    return kind in (jax.Array, np.ndarray) or origin is dict


def checked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function, which looks at its arguments and its result; itself if there are no arrays."""
    parameters = list(inspect.signature(function).parameters.values())
    if name not in RESULTS and (
        name.startswith("data.")  # where arrays are lists of numbers but for the rows made last
        or not any(letters_of(one.name) or _holds_arrays(one.annotation) for one in parameters)
    ):
        return function
    spec = RESULTS.get(name)
    names = [one.name for one in parameters]

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        call = Call(name)
        arguments = dict(zip(names, args, strict=False)) | kwargs
        for argument, value in arguments.items():
            if said := SAID_ELSEWHERE.get(argument):
                call.check(argument, said(arguments), value)
            elif argument != "self":
                call.look(argument, value)
        result = function(*args, **kwargs)
        call.look_at_result(spec, result)
        return result

    WRAPPED.add(name)
    return checking
