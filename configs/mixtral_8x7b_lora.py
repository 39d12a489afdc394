"""Trains adapters of rank 16 for Mixtral-8x7B-Instruct-v0.1 on your own conversations.

for       the same, with the experts adapted at a rank of 8 each
command   python -m jaxsft.train --config=configs/mixtral_8x7b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:4: 59.3 of 72.8 GiB a chip, 3.84 s a step, 17,085 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What mixtral_8x7b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "mixtral_8x7b.py")
    return recipes.adapters(full, batch_size=16, microbatches=2, divide_expert_rank=True)
