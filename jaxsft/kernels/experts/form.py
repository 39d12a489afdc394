"""What the choice of a back end for the experts asks of a run."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """A run's experts, as they are on each of its devices."""

    platform: str
    embed_dim: int
    mlp_dim: int  # of an expert
    dtype: str
