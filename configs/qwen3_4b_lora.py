"""Trains adapters of rank 16 for Qwen3-4B on your own conversations.

for       one task on one card; a few hundred conversations begin to be enough
command   python -m jaxsft.train --config=configs/qwen3_4b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:1: 30.7 of 72.8 GiB a chip, 3.16 s a step, 20,746 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What qwen3_4b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "qwen3_4b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16)
