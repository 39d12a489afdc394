"""A LoRA adapter in PEFT's format, merged into the tensors of its base as they are read.

W + scale * B A in float32, for each adapted matrix W [out, in]; A: [rank, in], B: [out, rank].
Source: arXiv:2106.09685 section 4.1.
"""

import dataclasses
from pathlib import Path

import numpy as np

from jaxsft.convert.adapter import peft_names, tensor_roles, tying
from jaxsft.convert.adapter.config import AdapterConfig
from jaxsft.convert.adapter.parameters import AdaptedParameters
from jaxsft.convert.adapter.tensor_roles import WEIGHTS, Made
from jaxsft.convert.families import tensor_table
from jaxsft.convert.tensors import huggingface
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.errors import ConversionError


class Merged:
    """The tensors of a base with an adapter merged in.

    A tied base is untied where the adapter makes its embedding and its head differ: the head is one
    of the tensors then, and `untied` is true.
    """

    def __init__(
        self,
        base: huggingface.Tensors,
        directory: Path,
        table: tensor_table.Table,
        shapes: tensor_table.Tree,
        in_memory: peft_names.InMemory,
        tied: bool,
    ):
        """Reads headers and the configuration only.

        Args:
            table: of the base's family.
            shapes: of the base's parameters.
            in_memory: what transformers calls in memory what the table calls a tensor.
            tied: whether the base's config.json says that its head is its embedding.

        Raises:
            ConversionError: an adapter of another kind, or one that doesn't fit the base.
        """
        self._base, self._where = base, str(directory)
        self._config = AdapterConfig(directory, in_memory)
        _refuse_pickle(directory)
        self._tensors = Directory(directory, WEIGHTS)
        self._head, self._embedding = (
            tensor_table.tensor_name(table, leaf) for leaf in ("head_DV", "embedding_VD")
        )
        self._tied, copied = tied, []
        self._names = [name for name in base.names() if not tied or name != self._head]
        if len(self._names) < len(base.names()):
            copied = [huggingface.check_tied(base, self._head, self._embedding, self._where)]
        self._in_memory = in_memory
        self._parameters = AdaptedParameters(self._config, self._tensors, table, shapes, in_memory)
        parts = self._parts()
        targeted = self._targeted(parts)
        self._made, idle = tensor_roles.place(parts, self._config, targeted, self._where)
        self._check_shapes()
        told = self._check_targets(targeted) + self._idle_note(idle)
        merged, replaced = self._count()
        self.untied = tied and self._resolve_tied()
        if self.untied:
            self._names.append(self._head)
            copied = [
                f"{self._where}: the adapter changes the embedding and the head of a tied base"
                " apart: the model is untied, and exports say tie_word_embeddings=false"
            ]
        self.notes = (
            f"{self._where}: {merged} matrices merged, {replaced} tensors replaced",
            *copied,
            *told,
            *self._config.unknown(),
        )

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(self._in_base(name))

    def dtype(self, name: str) -> np.dtype:
        """That of the base, which an export "as the source" has."""
        return self._base.dtype(self._in_base(name))

    def read(self, name: str) -> np.ndarray:
        """The merged tensor in float32; one that the adapter leaves alone, as in the base."""
        made = self._made.get(name, Made())
        if made.weight is not None:
            weight = self._tensors.read(made.weight)
        else:
            weight = self._base.read(self._in_base(name))
        change = self._parameters.change(name)
        if made.a is not None and made.b is not None:
            change = self._product(made.a, made.b)
            change *= np.float32(self._config.scale(_module(name)))
        if change is None:
            return weight
        change += weight  # in place: no third array of this size
        if made.m is not None:
            norms = np.linalg.norm(change, axis=1)
            change *= (self._finite(made.m) / norms)[:, None]
        return change

    def _in_base(self, name: str) -> str:
        return self._embedding if self._tied and name == self._head else name

    def _product(self, a: str, b: str) -> np.ndarray:
        product = self._finite(b) @ self._finite(a)
        return product.T if _is_of_embedding(a) else product

    def _finite(self, ours: str) -> np.ndarray:
        array = self._tensors.read(ours).astype(np.float32)
        if not np.isfinite(array).all():
            raise ConversionError(f"{self._where}: {ours} holds NaN or infinite values")
        return array

    def _parts(self) -> list[tensor_roles.AdapterTensor]:
        others = [name for name in self._tensors.names() if name not in self._parameters.names]
        there = {*self._names, self._head} if self._tied else set(self._names)
        in_file = {self._in_memory(name): name for name in there}
        parts = []
        for part in map(tensor_roles.parse, others):
            if part.target not in there and part.target in in_file:
                part = dataclasses.replace(part, target=in_file[part.target])
            parts.append(part)
            if part.target not in there:
                raise ConversionError(
                    f"{self._where}: {part.name} has no {part.target} in the base to go to"
                )
        return parts

    def _targeted(self, parts: list[tensor_roles.AdapterTensor]) -> set[str]:
        """The modules that get factors; where the configuration names none, those that have any."""
        if self._config.target_modules is None:
            return {part.module for part in parts if part.factor is not None}
        ends = {self._head, self._embedding}
        linear = {
            _module(name)
            for name in self._names
            if name.endswith(".weight") and len(self.shape(name)) == 2 and name not in ends
        }
        targeted = {m for m in self._modules() if self._config.targeted(m, linear)}
        if self._tied and self._config.ties_factors:
            targeted |= {_module(name) for name in ends}
        return targeted

    def _modules(self) -> list[str]:
        head = [self._head] if self._tied else []
        return list(dict.fromkeys(_module(name) for name in [*self._names, *head]))

    def _resolve_tied(self) -> bool:
        """Settles what embedding and head become; returns whether they differ."""
        ends = (self._embedding, self._head)
        given = [self._made.pop(name, Made()) for name in ends]
        made = tying.with_adapter(*given, self._config)
        self._made |= dict(zip(ends, made, strict=True))
        scales = {self._config.scale(_module(name)) for name in ends}
        return made[0] != made[1] or made[0].a is not None and len(scales) > 1

    def _count(self) -> tuple[int, int]:
        made = self._made.values()
        merged = sum(m.a is not None for m in made) + len(self._parameters.targets)
        return merged, sum(m.weight is not None for m in made)

    def _check_shapes(self) -> None:
        for target, made in self._made.items():
            shape = self.shape(target)
            if made.a is not None and made.b is not None:
                a, b = self._tensors.shape(made.a), self._tensors.shape(made.b)
                rank = self._rank(target)
                wanted = shape[::-1] if _is_of_embedding(made.a) else shape
                if a != (rank, wanted[1]) or b != (wanted[0], rank):
                    raise ConversionError(
                        f"{self._where}: {target} has factors {a} and {b}, expected"
                        f" {(rank, wanted[1])} and {(wanted[0], rank)}"
                    )
            for name in filter(None, (made.weight, made.original)):
                if self._tensors.shape(name) != shape:
                    raise ConversionError(
                        f"{self._where}: {name} has shape {self._tensors.shape(name)}, the base"
                        f" {shape}"
                    )

    def _rank(self, target: str) -> int:
        if self._tied and self._config.ties_factors and target == self._head:
            target = self._embedding  # whose factors it has, whatever rank_pattern says of it
        return self._config.rank(_module(target))

    def _check_targets(self, targeted: set[str]) -> list[str]:
        """A line for each name without effect; one that should have tensors must have some."""
        wanted, modules, told = self._config.target_modules, self._modules(), []
        adapted = {_module(target) for target, made in self._made.items() if made.a is not None}
        if not adapted and not self._parameters.targets:
            where = f"in {WEIGHTS}" if targeted else "in the base"
            raise self._config.refuse("target_modules", f"match nothing {where}")
        for name in wanted if isinstance(wanted, tuple) else ():
            meant = [m for m in modules if self._config.names(name, m)]
            if not meant:
                told.append(f"{self._where}: target_modules has {name!r}, which the base has not")
            elif (due := targeted.intersection(meant)) and not due & adapted:
                raise ConversionError(
                    f"{self._where}: target_modules has {name!r}, but no tensor of it is there"
                )
        if missing := sorted(targeted - adapted):
            told.append(
                f"{self._where}: has no factors for {len(missing)} of the {len(targeted)} modules"
                f" that target_modules means ({missing[0]}): these are as in the base"
            )
        return told + self._check_kept(modules)

    def _check_kept(self, modules: list[str]) -> list[str]:
        told, ends = [], {_module(self._head), _module(self._embedding)}
        kept = {_module(target) for target, made in self._made.items() if made.weight is not None}
        if self._tied and self._config.ties_kept and kept & ends:
            kept |= ends  # one stands for both
        for name in self._config.modules_to_save:
            meant = [module for module in modules if module.endswith(name)]
            if not meant:
                told.append(f"{self._where}: modules_to_save has {name!r}, which the base has not")
            elif not kept.intersection(meant):
                raise ConversionError(
                    f"{self._where}: modules_to_save has {name!r}, but no tensor of it is there"
                )
        return told

    def _idle_note(self, idle: list[str]) -> list[str]:
        if not idle:
            return []
        return [
            f"{self._where}: {len(idle)} tensors have no effect, as in PEFT: target_modules,"
            f" exclude_modules and modules_to_save leave their modules out ({idle[0]})"
        ]


def _refuse_pickle(directory: Path) -> None:
    if not (directory / WEIGHTS).is_file() and (directory / "adapter_model.bin").is_file():
        raise ConversionError(
            f"{directory}: has adapter_model.bin only, a pickle, which can run code when read;"
            f" save it with PEFT as {WEIGHTS}"
        )


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _is_of_embedding(factor: str) -> bool:
    return "embedding" in factor.rpartition(".")[2]
