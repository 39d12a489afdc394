"""Trains adapters of rank 16 for Qwen3-8B in four bits, on your own conversations.

for       one card of 24 GB
command   python -m jaxsft.train --config=configs/qwen3_8b_nf4.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   rtx4090:1: 19.0 of 21.6 GiB a chip, 26.6 s a step, 2,463 tokens/s
result    export/ is an adapter for PEFT and vLLM, trained beside the model in four bits

What qwen3_8b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "qwen3_8b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16, frozen_dtype="nf4")
