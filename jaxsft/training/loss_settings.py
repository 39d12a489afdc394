"""What config.loss asks of a model, and what to say of it."""

import dataclasses

from jaxsft.config import Loss
from jaxsft.model.settings import DecoderSettings

_PLAIN = Loss()


def with_loss(settings: DecoderSettings, loss: Loss) -> DecoderSettings:
    """The decoder that gives what a run's loss needs of it."""
    moe = settings.moe
    if moe is not None and loss.router_z:
        moe = dataclasses.replace(moe, keeps_log_sums=True)
    return dataclasses.replace(settings, moe=moe, embedding_noise=loss.neftune_alpha)


def loss_notes(loss: Loss) -> list[str]:
    """What is not the plain loss, for the user."""
    changed = [
        f"{name}={value}" for name, value in vars(loss).items() if value != getattr(_PLAIN, name)
    ]
    if not changed:
        return []
    return [
        f"config.loss: {', '.join(changed)}; metrics.jsonl has the plain mean over targets as loss,"
        " and what is minimised as objective where it is another figure"
    ]
