"""What a decoder is made of: the settings that a Hugging Face config.json is read into."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Positions divided by `factor`."""

    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a ramp between them (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    theta: float
    scaling: LinearScaling | Llama3Scaling | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    vocab_size: int
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    norm_eps: float
    rope: Rope
    tied_embeddings: bool
    max_positions: int  # what the model was trained for; longer rows are refused at start
    init_stddev: float = 0.02  # of random weights
