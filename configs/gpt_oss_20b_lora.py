"""Trains adapters of rank 16 for gpt-oss-20b on your own conversations.

for       a model that reasons before it answers; its experts get adapters of rank 4 each
command   python -m jaxsft.train --config=configs/gpt_oss_20b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:2: 57.3 of 72.8 GiB a chip, 2.84 s a step, 23,046 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What gpt_oss_20b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "gpt_oss_20b.py")
    return recipes.adapters(full, batch_size=16, microbatches=4, divide_expert_rank=True)
