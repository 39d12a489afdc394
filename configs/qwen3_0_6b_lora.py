"""Trains adapters of rank 16 for Qwen3-0.6B on your own conversations.

for       the same with several results of one model
command   python -m jaxsft.train --config=configs/qwen3_0_6b_lora.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   v5e:1x1: 5.0 of 15.8 GiB a chip, 2.42 s a step, 27,060 tokens/s
          l4:1: 8.3 of 20.2 GiB a chip, 7.56 s a step, 8,671 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What qwen3_0_6b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "qwen3_0_6b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16)
