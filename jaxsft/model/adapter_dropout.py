"""Dropout of what adapters are given, in a training step: PEFT's `lora_dropout`.

A number of an adapter's input is dropped alone, the others become 1 / (1 - rate) times as large;
the weight beside the adapter gets all of them. Each weight draws numbers of its own, by its name
and layer, for each token by the token's key: see model.noise.

B: batch row, T: position.
"""

import dataclasses
import math
import zlib

import jax
import jax.numpy as jnp

from jaxsft.model import noise

_STEPS = 1 << 16  # a rate is so many parts: two numbers are drawn at the price of one


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Of the adapters of a layer, or of one adapter."""

    keys_BT: jax.Array
    rate: float = dataclasses.field(metadata={"static": True})

    def below(self, name: str) -> "Dropout":
        """Of the part of that name: its own numbers."""
        return dataclasses.replace(
            self, keys_BT=noise.of_stream(self.keys_BT, zlib.crc32(name.encode()))
        )

    def __call__(self, given_x: jax.Array, num_inputs: int) -> jax.Array:
        """What an adapter is given, with some of its numbers dropped.

        Args:
            num_inputs: dimensions of a token's numbers, behind those of tokens.
        """
        tokens, inputs = given_x.shape[:-num_inputs], given_x.shape[-num_inputs:]
        dropped = min(max(1, round(self.rate * _STEPS)), _STEPS - 1)
        drawn_XD = noise.sixteen_bits(self.keys_BT.reshape(-1), math.prod(inputs))
        keep_x = drawn_XD.reshape(*tokens, *inputs) >= dropped
        # In float32: bfloat16 would round the factor by up to 0.4 %, for all numbers alike.
        raised_x = given_x.astype(jnp.float32) * (_STEPS / (_STEPS - dropped))
        return jnp.where(keep_x, raised_x.astype(given_x.dtype), 0)


def of_layer(keys_BT: jax.Array | None, rate: float, layer: int | jax.Array) -> Dropout | None:
    """Of a layer's adapters; None outside of training, and where none is asked for."""
    if keys_BT is None or not rate:
        return None
    return Dropout(noise.of_stream(keys_BT, noise.FIRST_LAYER + layer), rate)
