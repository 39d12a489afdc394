"""Trains adapters of rank 16 for Llama-3.2-1B-Instruct on your own conversations.

for       the same with several results of one model
command   python -m jaxsft.train --config=configs/llama3_2_1b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   v5e:1x1: 10.1 of 15.8 GiB a chip, 3.1 s a step, 21,115 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What llama3_2_1b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "llama3_2_1b.py")
    return recipes.adapters(full, batch_size=16, microbatches=8)
