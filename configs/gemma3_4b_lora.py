"""Trains adapters of rank 16 for Gemma-3-4B-it on your own conversations.

for       one task or a style in one of its many languages, with less memory
command   python -m jaxsft.train --config=configs/gemma3_4b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:2: 16.5 of 72.8 GiB a chip, 1.76 s a step, 37,163 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What gemma3_4b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "gemma3_4b.py")
    return recipes.adapters(full, batch_size=16, microbatches=8)
