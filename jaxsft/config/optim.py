"""How parameters change: the optimizer, its learning rate and its precision, and which train."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """A rule for some of the parameters: how they train.

    Its pattern is of dotted paths ("layers.attention.*", "*norm*"), or one of attention, mlp,
    experts, router, norms, embedding and head.
    """

    pattern: str  # of parameters: dotted paths, or a name such as mlp
    lr_factor: float = 1.0  # of the schedule's rate
    # None: Optim's, which spares norms and biases. Given, it acts on all that the rule covers.
    weight_decay: float | None = None
    frozen: bool = False  # no gradient, no optimizer state, no decay; in no checkpoint
    # Of an embedding or a head: new_tokens trains the rows of config.model.new_tokens alone.
    rows: Literal["all", "new_tokens"] = "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    peak_lr: float  # learning rate that warmup ends at
    # Its state has 8 bytes a parameter with adamw, 2 with adamw_8bit, nearly none with adafactor, 4
    # with lion, sgd and muon. lion wants a rate 3 to 10 times lower than adamw. muon is for the
    # matrices of layers; embedding, head and vectors get AdamW, at the same rate.
    name: Literal["adamw", "adamw_8bit", "adafactor", "lion", "muon", "sgd"] = "adamw"
    # How the rate goes on after warmup.
    schedule: Literal["cosine", "linear", "constant", "warmup_stable_decay", "inverse_sqrt"] = (
        "cosine"
    )
    # Steps in which the rate rises to peak_lr; or their share of the run: 0.03 where neither is
    # given.
    warmup_steps: int | None = None
    warmup_share: float | None = None  # of all steps, instead
    final_lr_fraction: float = 0.1  # of peak_lr, reached at the last step
    decay_share: float = 0.1  # of the run, at its end: where warmup_stable_decay falls
    decay_shape: Literal["linear", "1-sqrt"] = "linear"  # how warmup_stable_decay falls
    b1: float = 0.9  # decay of Adam's mean of gradients
    b2: float = 0.999  # decay of Adam's mean of their squares
    eps: float = 1e-8  # added to Adam's root of that mean
    lion_b2: float = 0.99  # of Lion's mean of gradients; its b1 weighs that against the gradient
    muon_momentum: float = 0.95  # decay of Muon's mean of gradients
    sgd_momentum: float = 0.9  # 0: none is kept
    weight_decay: float = 0.0  # times the learning rate, of the weight; not of norms and biases
    max_grad_norm: float | None = 1.0  # global norm; None: no clipping
    max_skipped_steps: int = 3  # in a row, loss or gradients not finite: the run has diverged, 71
    # As gradients leave the backward pass; those of micro-batches are added in it. Their norm and
    # the update are computed in float32. bfloat16 saves 2 bytes a parameter.
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    # Dtype in which Adam's mean of gradients is kept. The mean of their squares is always float32:
    # bfloat16 would lose its changes, which are 1/512 of it and less.
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"
    # Decay of an exponential mean of the parameters, kept in float32 beside them; None: none is.
    ema_decay: float | None = None
    ema_is_result: bool = True  # evaluations and exports take that mean, not the last parameters
    groups: tuple[Group, ...] = ()  # the first whose pattern matches decides
    # A layer's rate is multiplied by this for each layer above it, the embedding's for all layers.
    layer_decay: float | None = None
    # Only so many layers train, the last ones, and what a rule of groups names; None: all.
    last_layers: int | None = None
