"""How the next token is chosen of its logits: the likeliest, or by chance among the likely ones.

B: row, V: vocabulary.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxsft.errors import ConfigError

_NO_TOKEN = -jnp.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """The order is that of transformers: penalty, temperature, top k, top p, min p.

    Attributes:
        temperature: 0: the likeliest token; else logits are divided by it.
        top_k: tokens that may be chosen; None: all.
        top_p: the likeliest tokens whose probabilities come to so much may be chosen; None: all.
        min_p: those that are at least so likely, in parts of the likeliest; None: all.
        repetition_penalty: positive logits of tokens that a row has already are divided by it,
            negative ones are multiplied (arXiv:1909.05858).
        seed: of all chance. A row's numbers depend on it, the row's own number and the token's
            place alone: not on the batch or the mesh.

    Raises:
        ConfigError: a value that means nothing.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check("max_new_tokens", self.max_new_tokens >= 1, "at least 1")
        self._check("temperature", 0 <= self.temperature < math.inf, "0 or more")
        self._check("top_k", self.top_k is None or self.top_k >= 1, "at least 1")
        self._check("top_p", self.top_p is None or 0 < self.top_p <= 1, "in (0, 1]")
        self._check("min_p", self.min_p is None or 0 <= self.min_p <= 1, "in [0, 1]")
        penalty = self.repetition_penalty
        self._check("repetition_penalty", 0 < penalty < math.inf, "more than 0")
        self._check("seed", 0 <= self.seed < 2**32, "in [0, 2 ** 32)")
        by_chance = self.temperature > 0
        for name in ("top_k", "top_p", "min_p"):
            given = getattr(self, name) is not None
            self._check(name, by_chance or not given, "given with a temperature: it has no effect")

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"{name}={getattr(self, name)}: must be {wanted}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choice:
    """`Sampling` as a compiled program takes it: other numbers need no other program.

    Attributes:
        threshold: whether a token may be kept from being chosen.
        penalises: whether tokens that a row has already count less.
    """

    by_chance: bool = dataclasses.field(metadata={"static": True})
    threshold: bool = dataclasses.field(metadata={"static": True})
    penalises: bool = dataclasses.field(metadata={"static": True})
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    penalty: jax.Array
    seed: jax.Array


def choice_of(sampling: Sampling, num_tokens: int) -> Choice:
    """
    Args:
        num_tokens: of the vocabulary.
    """
    s = sampling
    return Choice(
        by_chance=s.temperature > 0,
        threshold=(s.top_k or num_tokens) < num_tokens or (s.top_p or 1.0) < 1.0 or bool(s.min_p),
        penalises=s.repetition_penalty != 1.0,
        temperature=jnp.float32(s.temperature or 1.0),
        top_k=jnp.int32(min(s.top_k or num_tokens, num_tokens)),
        top_p=jnp.float32(s.top_p if (s.top_p or 1.0) < 1.0 else jnp.inf),
        min_p=jnp.float32(s.min_p or 0.0),
        penalty=jnp.float32(s.repetition_penalty),
        seed=jnp.uint32(s.seed),
    )


def next_tokens(
    choice: Choice,
    logits_BV: jax.Array,
    seen_BV: jax.Array | None,
    numbers_B: jax.Array,
    place: jax.Array,
) -> jax.Array:
    """The next token of each row, int32 [B].

    Args:
        seen_BV: whether a row has the token already; None: nothing depends on it.
        numbers_B: of the rows.
        place: of the token in its answer.
    """
    logits_BV = shaped(choice, logits_BV, seen_BV)
    if not choice.by_chance:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def drawn(logits_V: jax.Array, number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(choice.seed), number), place)
        return jax.random.categorical(key, logits_V)

    return jax.vmap(drawn)(logits_BV, numbers_B).astype(jnp.int32)


def shaped(choice: Choice, logits_BV: jax.Array, seen_BV: jax.Array | None) -> jax.Array:
    """Logits whose softmax is the distribution to draw from."""
    if choice.penalises:
        assert seen_BV is not None
        less_BV = jnp.where(logits_BV < 0, logits_BV * choice.penalty, logits_BV / choice.penalty)
        logits_BV = jnp.where(seen_BV, less_BV, logits_BV)
    if not choice.by_chance:
        return logits_BV
    logits_BV = logits_BV / choice.temperature
    if not choice.threshold:
        return logits_BV
    return jnp.where(logits_BV >= _least(choice, logits_BV)[:, None], logits_BV, _NO_TOKEN)


def _least(choice: Choice, logits_BV: jax.Array) -> jax.Array:
    """The least logit of a row that may be chosen, [B].

    With top k 4, top p 0.8:
        probability          .40 .25 .15 .10 .06 .04
        of the k likeliest   .44 .28 .17 .11
        of those before      .00 .44 .72 .89            the first three may be chosen
    """
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    among_1V = jnp.arange(sorted_BV.shape[-1])[None, :] < choice.top_k
    share_BV = jax.nn.softmax(jnp.where(among_1V, sorted_BV, _NO_TOKEN), axis=-1)
    before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
    may_BV = among_1V & (before_BV < choice.top_p) & (share_BV >= choice.min_p * share_BV[:, :1])
    last_B = jnp.maximum(jnp.sum(may_BV, axis=-1) - 1, 0)
    return jnp.take_along_axis(sorted_BV, last_B[:, None], axis=-1)[:, 0]
