"""Special tokens that a model did not have: explicit ids in the tokenizer, rows in the model.

V: rows of the embedding, D: embed_dim, N: new tokens.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxsft.convert import untrusted
from jaxsft.convert.pretrained import Pretrained
from jaxsft.errors import ConversionError
from jaxsft.model.state import Params

EMBEDDING, HEAD = "embedding_VD", "head_DV"
Initial = Literal["mean", "normal"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where the new tokens go."""

    ids: dict[str, int]
    first_free: int  # tokens of the tokenizer before: rows from here on were never used
    rows: int  # of the embedding afterwards

    @property
    def num_tokens(self) -> int:
        """Rows that have a token; the others are padding."""
        return self.first_free + len(self.ids)


def plan(tokenizer: Path, tokens: Sequence[str], rows: int, multiple: int = 1) -> Plan:
    """The ids after the last one of the tokenizer; rows are added only where these run out.

    Args:
        rows: of the embedding now: often more than the tokenizer has tokens.
        multiple: rows that are added fill up to a multiple of this.

    Raises:
        ConversionError: a token that is there already, or a tokenizer without tokenizer.json.
    """
    there = _ids(tokenizer)
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise ConversionError(f"new tokens {list(tokens)}: each must be there once, and not empty")
    for token in tokens:
        if token in there:
            raise ConversionError(f"{tokenizer}: {token!r} is a token already, id {there[token]}")
    first = max(there.values()) + 1
    needed = first + len(tokens)
    if needed > rows:
        rows = -(-needed // multiple) * multiple
    return Plan({token: first + n for n, token in enumerate(tokens)}, first, rows)


def grow(params: Params, planned: Plan, initial: Initial = "mean", seed: int = 0) -> Params:
    """The parameters with a row for each new token, and padding rows that can't win.

    New rows are the mean of the used ones. Padding rows always are: the logit of a mean of rows
    is the mean of their logits, so it is never the largest. Tied stays tied: there is no head to
    grow.

    Args:
        initial: "normal" adds noise with the trained rows' spread in each dimension.
    """
    grown = dict(params)
    grown[EMBEDDING] = _grow(params[EMBEDDING], planned, initial, seed)
    if HEAD in params:
        grown[HEAD] = _grow(params[HEAD].T, planned, initial, seed + 1).T
    return grown


def settle_padding(params: Params, num_tokens: int) -> Params:
    """The parameters with padding rows at the mean of the others again: to be called at export.

    Training moves them: the optimizer's decay, and the loss, which sees their logits.
    """
    settled = dict(params)
    settled[EMBEDDING] = _with_mean(params[EMBEDDING], num_tokens, num_tokens)
    if HEAD in params:
        settled[HEAD] = _with_mean(params[HEAD].T, num_tokens, num_tokens).T
    return settled


def mask_padding(logits_BTV: jax.Array, num_tokens: int) -> jax.Array:
    """The logits with minus infinity where no token is."""
    is_token_V = jnp.arange(logits_BTV.shape[-1]) < num_tokens
    return jnp.where(is_token_V, logits_BTV, -jnp.inf)


def extended(base: Pretrained, planned: Plan) -> Pretrained:
    """The model's description with the new number of rows, for placement and export."""
    settings = dataclasses.replace(base.settings, vocab_size=planned.rows)
    config = base.config | {"vocab_size": planned.rows}
    return dataclasses.replace(base, settings=settings, config=config)


def write_tokenizer(source: Path, planned: Plan, directory: Path) -> None:
    """Copies a tokenizer directory and gives the new tokens their ids in it.

    Only tokenizer.json changes, and tokenizer_config.json where that lists the added tokens.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, directory / path.name)
    tokenizer = untrusted.read_json(source / "tokenizer.json")
    tokenizer["added_tokens"] += [
        {"id": index, "content": token, **_FLAGS} for token, index in planned.ids.items()
    ]
    _write(directory / "tokenizer.json", tokenizer)
    config_path = source / "tokenizer_config.json"
    config = untrusted.read_json(config_path) if config_path.is_file() else {}
    if "added_tokens_decoder" in config:
        for token, index in planned.ids.items():
            config["added_tokens_decoder"][str(index)] = {"content": token, **_FLAGS}
        _write(directory / "tokenizer_config.json", config)


_FLAGS = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}


def _ids(tokenizer: Path) -> dict[str, int]:
    path = tokenizer / "tokenizer.json"
    if not path.is_file():
        raise ConversionError(f"{tokenizer}: has no tokenizer.json to add tokens to")
    data = untrusted.read_json(path)
    added = {entry["content"]: entry["id"] for entry in data["added_tokens"]}
    return data["model"]["vocab"] | added


def _grow(table_VD: jax.Array, planned: Plan, initial: Initial, seed: int) -> jax.Array:
    missing = planned.rows - table_VD.shape[0]
    table_VD = jnp.pad(table_VD, ((0, missing), (0, 0)))
    table_VD = _with_mean(table_VD, planned.first_free, planned.first_free)
    if initial == "mean":
        return table_VD
    used_VD = table_VD[: planned.first_free]
    shape = (len(planned.ids), table_VD.shape[1])
    noise_ND = used_VD.std(0)[None] * jax.random.normal(jax.random.key(seed), shape)
    return table_VD.at[planned.first_free : planned.num_tokens].add(noise_ND.astype(table_VD.dtype))


def _with_mean(table_VD: jax.Array, used: int, start: int) -> jax.Array:
    """The table with the mean of the first `used` rows in each row from `start` on."""
    mean_D = table_VD[:used].astype(jnp.float32).mean(0).astype(table_VD.dtype)
    return table_VD.at[start:].set(mean_D[None])


def _write(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="")
