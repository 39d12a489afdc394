"""What training minimises; evaluation always measures the plain cross-entropy of the targets."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    # Of a target: its negative log-likelihood; "dft" (Dynamic Fine-Tuning, arXiv:2508.05629) times
    # its probability, which is taken for a constant, so that unlikely targets pull less.
    kind: Literal["cross_entropy", "dft"] = "cross_entropy"
    # What counts the same: each target, whatever it is in; or each example, whatever its length.
    reduction: Literal["token_mean", "example_mean"] = "token_mean"
    # A factor of the loss weights by source name, as {"code": 2.0}; 1 where none is given.
    source_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    label_smoothing: float = 0.0  # share of a target that is spread evenly over the vocabulary
    z_loss: float = (
        0.0  # x the square of each target's log-sum-exp, which draws it to 0; often 1e-4
    )
    # NEFTune (arXiv:2310.05914), often 5: noise on the embeddings in training, of at most alpha /
    # sqrt(length x width), the length being the example's own in tokens. None: no noise.
    neftune_alpha: float | None = None
    # x the load-balancing loss of a mixture's routers. None: router_aux_loss_coef of config.json
    # where its output_router_logits is true, else 0. Above 0, several micro-batches need a forward
    # pass more, as what counts is how the whole batch is spread over the experts.
    router_balance: float | None = None
    router_z: float = 0.0  # x the mean square of the routers' log-sum-exp; often 1e-3
