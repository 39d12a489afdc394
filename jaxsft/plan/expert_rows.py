"""How many rows the experts of a chip compute, which the router decides at run time."""

import dataclasses
from collections.abc import Mapping

from jaxsft.config import Config
from jaxsft.devices import mesh as mesh_lib
from jaxsft.kernels.experts.tiles import tile_rows
from jaxsft.model import settings
from jaxsft.plan.batch_load import BatchLoad


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertRows:
    """(token, expert) pairs of one micro-batch on one chip, where all experts are used evenly."""

    buffer: int  # that the chip's arrays have room for: all of its tokens could choose its experts
    used: float  # that belong to its experts
    tiles: float  # of the back end that loops over them

    @property
    def used_share(self) -> float:
        return self.used / self.buffer


def expected(
    config: Config, model: settings.DecoderSettings, sizes: Mapping[str, int], rows: BatchLoad
) -> ExpertRows | None:
    """None where the model has no experts."""
    if model.moe is None:
        return None
    slots = config.train.batch_size * config.data.sequence_length // config.train.microbatches
    # Each chip sees the tokens of all chips along the axes over which the experts are spread.
    tokens = (
        slots
        * sizes["expert"]
        // (mesh_lib.parts("batch", sizes) * mesh_lib.parts("sequence", sizes))
    )
    buffer = tokens * model.moe.experts_per_token
    used = buffer * rows.tokens / sizes["expert"]
    here = model.moe.num_experts // sizes["expert"]
    # A group's last tile is half empty in the mean.
    tiles = used / tile_rows(buffer, here) + here / 2
    return ExpertRows(buffer=buffer, used=used, tiles=tiles)
