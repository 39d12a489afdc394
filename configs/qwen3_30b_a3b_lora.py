"""Trains adapters of rank 16 for Qwen3-30B-A3B on your own conversations.

for       a strong model that answers fast; its 128 experts get adapters of rank 2 each
command   python -m jaxsft.train --config=configs/qwen3_30b_a3b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:2: 71.6 of 72.8 GiB a chip, 4.06 s a step, 16,130 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What qwen3_30b_a3b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "qwen3_30b_a3b.py")
    return recipes.adapters(full, batch_size=16, microbatches=2, divide_expert_rank=True)
