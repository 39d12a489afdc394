"""Adapters of low rank that are trained in place of the model's own weights."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    rank: int = 16  # columns of A and rows of B of an adapter
    alpha: float = 32.0  # an adapter's change is multiplied by alpha / rank
    # What gets an adapter: attention, mlp, experts, router, head, embedding, or patterns of
    # parameters such as "q_*" or "layers.attention.*". None: all matrices of attention, MLP and
    # experts.
    targets: tuple[str, ...] | None = None
    # Another rank for these names or patterns; of several that match, the first one.
    ranks: dict[str, int] = dataclasses.field(default_factory=dict)
    # An expert's rank is divided by the experts that a token uses, as its share of tokens is.
    divide_expert_rank: bool = False
    # What adapters begin with. "default": A at random and B zero. "pissa" (arXiv:2404.02948): the
    # weight's largest singular values and their vectors, which learn faster at first; the model
    # begins as its base all the same.
    init: Literal["default", "pissa"] = "default"
    rslora: bool = False  # multiplied by alpha / sqrt(rank) instead (arXiv:2312.03732)
    dora: bool = False  # learns each output's magnitude apart (arXiv:2402.09353); costs time
    # Share of the numbers of an adapter's input that are dropped in training, often 0.05; the
    # weight itself is given all of them. In steps of 1/65536.
    dropout: float = 0.0
    # Parameters that are trained whole beside the adapters, by name or pattern, such as
    # ("embedding", "head", "norms"); PEFT's modules_to_save.
    train_whole: tuple[str, ...] = ()
    # B's learning rate by A's, as in LoRA+ (arXiv:2402.12354), where 16 is common.
    lr_ratio: float = 1.0
