"""What a batch holds, as far as its cost goes."""

import dataclasses

import numpy as np

from jaxsft.data.pack.counts import BatchCounts
from jaxsft.model import settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchLoad:
    """Without prepared data: full rows of one segment, all of it supervised."""

    tokens: float  # share of the slots that are no padding
    supervised: float  # share of the slots with a loss
    segment_length: float  # mean, in tokens
    max_segments: int | None = None  # of a row; None: not known

    def counts(self, slots: int, model: settings.DecoderSettings) -> BatchCounts:
        """Of a batch of so many slots whose segments are all as long as the mean."""
        tokens = self.tokens * slots
        num_segments = max(1, round(tokens / self.segment_length))
        lengths = np.full(num_segments, tokens / num_segments)
        return BatchCounts.of_segments(lengths, slots, {kind.window for kind in model.kinds()})
