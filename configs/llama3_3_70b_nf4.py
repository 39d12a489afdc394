"""Trains adapters of rank 16 for Llama-3.3-70B-Instruct in four bits, on your own conversations.

for       the strongest dense model here, on one card of 80 GB
command   python -m jaxsft.train --config=configs/llama3_3_70b_nf4.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:1: 59.9 of 72.8 GiB a chip, 47.3 s a step, 1,386 tokens/s
result    export/ is an adapter for PEFT and vLLM, trained beside the model in four bits

What llama3_3_70b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "llama3_3_70b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16, frozen_dtype="nf4")
