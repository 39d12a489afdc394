"""Trains adapters of rank 16 for Mistral-7B-Instruct-v0.3 in four bits, on your own conversations.

for       one card of 24 GB
command   python -m jaxsft.train --config=configs/mistral_7b_nf4.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   rtx4090:1: 16.9 of 21.6 GiB a chip, 24.7 s a step, 2,658 tokens/s
result    export/ is an adapter for PEFT and vLLM, trained beside the model in four bits

What mistral_7b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "mistral_7b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16, frozen_dtype="nf4")
