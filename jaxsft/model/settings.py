"""What a decoder is made of: the settings that a Hugging Face config.json is read into.

Families are combinations of these settings; no name of a family is known to the model.
"""

import dataclasses
import enum

from jaxsft.model.moe_settings import MoeSettings

WIDER_THAN_ANY_ROW = 2**30  # the window of a layer that has none, where others have one


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Positions divided by `factor`."""

    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicScaling:
    """A greater base for segments longer than `original_max_positions` (NTK-aware)."""

    factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Low frequencies divided by `factor`, high ones kept, a ramp between them (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """A ramp over rotations from kept to divided by `factor` (arXiv:2309.00071)."""

    factor: float
    original_max_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float  # of the rotated queries and keys
    whole_dimensions: bool  # the ramp starts and ends at whole dimensions


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRopeScaling:
    """Each frequency divided by its own factor, by another one in segments that are longer than
    `original_max_positions` (arXiv:2402.13753).
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_positions: int
    attention_factor: float


Scaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    theta: float
    scaling: Scaling | None = None
    share: float = 1.0  # of head_dim that is rotated; the rest passes through
    interleaved: bool = False  # pairs are neighbours 2i, 2i + 1; False: i and i + half


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerKind:
    """What one layer's attention may do differently from the next one's."""

    window: int | None  # a token sees itself and window - 1 tokens before it; None: all
    rope: Rope | None  # None: no position information


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormSettings:
    """Root mean square by default; in float32."""

    centered: bool = False  # the mean is subtracted first: LayerNorm
    bias: bool = False
    scale_plus_one: bool = False  # multiplies by 1 + the stored scale
    scale_in_float32: bool = False  # before the cast back to the model's dtype, not after it


class QkNorm(enum.Enum):
    """Over what queries and keys are normalised, and which scale they get."""

    HEAD = enum.auto()  # over each head; one scale for all heads
    EACH_HEAD = enum.auto()  # over each head; a scale of its own
    WIDTH = enum.auto()  # over all heads together


class Block(enum.Enum):
    """How attention and MLP follow each other."""

    SEQUENTIAL = enum.auto()  # x + attention(norm(x)), then the same with the MLP
    PARALLEL = enum.auto()  # x + attention(norm(x)) + mlp(other norm(x))
    PARALLEL_ONE_NORM = enum.auto()  # x + attention(norm(x)) + mlp(the same)


class Activation(enum.Enum):
    SILU = enum.auto()
    GELU = enum.auto()  # with the error function
    GELU_TANH = enum.auto()
    RELU = enum.auto()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderSettings:
    vocab_size: int  # rows of the embedding
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int  # of a dense MLP
    norm_eps: float
    rope: Rope
    tied_embeddings: bool
    max_positions: int  # what the model was trained for; longer rows are refused at start
    init_stddev: float = 0.02  # of random weights
    layer_kinds: tuple[LayerKind, ...] | None = None  # None: no window and `rope` in all layers
    norm: NormSettings = NormSettings()
    norms_before: bool = True  # of attention and MLP
    norms_after: bool = False  # of what they add
    block: Block = Block.SEQUENTIAL
    qk_norm: QkNorm | None = None
    qkv_bias: bool = False
    attention_out_bias: bool = False
    attention_scale: float | None = None  # of query x key; None: head_dim ** -0.5
    attention_soft_cap: float | None = None  # logits become cap * tanh(logits / cap)
    attention_sinks: bool = False  # a learned logit for each head that takes weight from all keys
    attention_back_end: str = "xla"  # one of kernels.attention.BACK_ENDS, but with a cache
    attention_max_segments: int | None = None  # of a run's rows; None: not known
    mlp_gated: bool = True
    mlp_bias: bool = False
    activation: Activation = Activation.SILU
    moe: MoeSettings | None = None  # in place of the MLP, but in dense_layers
    dense_layers: tuple[int, ...] = ()  # those with an MLP where the others have experts
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of what attention and MLP add
    logit_scale: float = 1.0
    logit_soft_cap: float | None = None
    # NEFTune's alpha: noise on the embeddings of tokens that have keys; by the run.
    embedding_noise: float | None = None
    adapter_dropout: float = (
        0.0  # of what adapters are given, for tokens that have keys; by the run
    )
    num_padding: int = 0  # of the vocabulary's rows, the last ones: never predicted

    @property
    def num_tokens(self) -> int:
        """Rows of the vocabulary that may be predicted."""
        return self.vocab_size - self.num_padding

    @property
    def windows(self) -> tuple[int, ...]:
        """Each that a layer has, once; none where no layer has one."""
        windows = [kind.window for kind in self.kinds()]
        return tuple(dict.fromkeys(w or WIDER_THAN_ANY_ROW for w in windows)) * any(windows)

    def has_experts(self, layer: int) -> bool:
        return self.moe is not None and layer not in self.dense_layers

    def kinds(self) -> tuple[LayerKind, ...]:
        """One for each layer."""
        if self.layer_kinds is None:
            return (LayerKind(window=None, rope=self.rope),) * self.num_layers
        assert len(self.layer_kinds) == self.num_layers, self
        return self.layer_kinds
