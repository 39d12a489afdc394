"""Trains adapters of rank 16 for Llama 3.1 8B, a base model, on your own conversations.

for       one task or a style, on one card
command   python -m jaxsft.train --config=configs/llama3_8b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   v6e:1x1: 28.8 of 31.2 GiB a chip, 6.28 s a step, 10,434 tokens/s
          h100:1: 43.6 of 72.8 GiB a chip, 4.75 s a step, 13,795 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What llama3_8b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "llama3_8b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16)
