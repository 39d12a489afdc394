"""Trains adapters of rank 16 for Qwen3-8B on your own conversations.

for       one task or a style, on one card
command   python -m jaxsft.train --config=configs/qwen3_8b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   v6e:1x1: 29.5 of 31.2 GiB a chip, 6.89 s a step, 9,512 tokens/s
          h100:1: 45.5 of 72.8 GiB a chip, 4.92 s a step, 13,314 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What qwen3_8b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "qwen3_8b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16)
