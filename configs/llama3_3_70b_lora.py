"""Trains adapters of rank 16 for Llama-3.3-70B-Instruct on your own conversations.

for       the strongest dense model here, for a task that smaller ones fail at
command   python -m jaxsft.train --config=configs/llama3_3_70b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:8: 44.4 of 72.8 GiB a chip, 6.15 s a step, 10,654 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What llama3_3_70b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "llama3_3_70b.py")
    return recipes.adapters(full, batch_size=16, microbatches=2)
