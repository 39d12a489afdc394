"""Which kind of attention the layers of a decoder have."""

from jaxsft.model import settings
from jaxsft.model.attention.grouped_queries import GROUPED_QUERIES
from jaxsft.model.attention.kinds import AttentionKind


def kind_of(s: settings.DecoderSettings) -> AttentionKind:
    """That of all layers: grouped queries is the only one yet, whatever the settings."""
    del s
    return GROUPED_QUERIES
