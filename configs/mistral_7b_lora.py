"""Trains adapters of rank 16 for Mistral-7B-Instruct-v0.3 on your own conversations.

for       one task or a style, on one card
command   python -m jaxsft.train --config=configs/mistral_7b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:1: 42.0 of 72.8 GiB a chip, 4.56 s a step, 14,357 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What mistral_7b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "mistral_7b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16)
