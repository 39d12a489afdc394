"""What config.loss asks of a model, and what to say of it."""

import dataclasses

from jaxsft.config import Loss
from jaxsft.data.pack.reweight import reweights
from jaxsft.kernels.loss.chunks import most_chunk_tokens
from jaxsft.kernels.loss.form import DistilForm, LossForm
from jaxsft.model.settings import DecoderSettings

PLAIN = Loss()


def loss_form(
    settings: DecoderSettings,
    num_sources: int | None = None,
    num_segments: int | None = None,
    loss: Loss = PLAIN,
    distil: DistilForm | None = None,
    platform: str = "cpu",
) -> LossForm:
    """What is static of a model's loss.

    Args:
        num_sources: of a mixture whose losses are kept apart.
        num_segments: of a row, at most, whose losses are kept apart.
        loss: what of it is minimised.
        distil: the part of a teacher in that.
        platform: of the devices.
    """
    return LossForm(
        vocab_size=settings.num_tokens,
        soft_cap=settings.logit_soft_cap,
        tied=settings.tied_embeddings,
        num_sources=num_sources,
        num_segments=num_segments,
        kind=loss.kind,
        label_smoothing=loss.label_smoothing,
        z_loss=loss.z_loss,
        reweighted=reweights(loss),
        distil=distil,
        most_chunk_tokens=most_chunk_tokens(platform),
    )


def with_loss(settings: DecoderSettings, loss: Loss) -> DecoderSettings:
    """The decoder that gives what a run's loss needs of it."""
    moe = settings.moe
    if moe is not None and loss.router_z:
        moe = dataclasses.replace(moe, keeps_log_sums=True)
    return dataclasses.replace(settings, moe=moe, embedding_noise=loss.neftune_alpha)


def loss_notes(loss: Loss) -> list[str]:
    """What is not the plain loss, for the user."""
    changed = [
        f"{name}={value}" for name, value in vars(loss).items() if value != getattr(PLAIN, name)
    ]
    if not changed:
        return []
    return [
        f"config.loss: {', '.join(changed)}; metrics.jsonl has the plain mean over targets as loss,"
        " and what is minimised as objective where it is another figure"
    ]
