"""What is minimised where it is not the negative log-likelihood, and its gradient by the logits.

C: tokens of a chunk, V: vocabulary, or this device's part.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxsft.kernels.loss.form import DistilForm, LossForm


@dataclasses.dataclass(frozen=True)
class Slopes:
    """The gradient by a token's logits, as multiples of vectors over the vocabulary.

    It is probability x their softmax - label x the target's unit vector - every x ones, and others.
    """

    probability_C: jax.Array
    label_C: jax.Array
    every: float  # column that is a token
    others_CV: jax.Array | None = None


def token_objectives(
    form: LossForm, nll_C: jax.Array, log_sum_C: jax.Array, mean_logit_C: jax.Array | None
) -> tuple[jax.Array, Slopes]:
    """Each token's objective, and its slopes.

    Args:
        log_sum_C: log-sum-exp of the logits.
        mean_logit_C: over all tokens of the vocabulary; None where the form smooths no labels.
    """
    share = form.label_smoothing
    objective_C, every = nll_C, 0.0
    if share:
        assert mean_logit_C is not None
        objective_C = (1 - share) * nll_C + share * (log_sum_C - mean_logit_C)
        every = share / form.vocab_size
    scale_C = jnp.ones_like(nll_C)
    if form.kind == "dft":
        scale_C = jnp.exp(-nll_C)  # the target's probability, which has no gradient
        objective_C = scale_C * objective_C
    probability_C = scale_C
    if form.z_loss:
        objective_C += form.z_loss * jnp.square(log_sum_C)
        probability_C = scale_C + 2 * form.z_loss * log_sum_C
    return objective_C, Slopes(probability_C, (1 - share) * scale_C, every)


def taught(
    form: DistilForm,
    objective_C: jax.Array,
    slopes: Slopes,
    kl_C: jax.Array,
    d_kl_CV: jax.Array,
) -> tuple[jax.Array, Slopes]:
    """Each token's objective and its slopes, the teacher's part with them.

    Args:
        objective_C, slopes: without a teacher.
        kl_C, d_kl_CV: as divergence gives them: the gradient by the logits over the temperature.
    """
    share, temperature = 1 - form.alpha, form.temperature
    objective_C = form.alpha * objective_C + share * temperature**2 * kl_C
    return objective_C, Slopes(
        form.alpha * slopes.probability_C,
        form.alpha * slopes.label_C,
        form.alpha * slopes.every,
        share * temperature * d_kl_CV,
    )
