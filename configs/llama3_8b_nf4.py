"""Trains adapters of rank 16 for Llama-3.1-8B in four bits, on your own conversations.

for       one card of 24 GB; what four bits change of the model is measured and shown
command   python -m jaxsft.train --config=configs/llama3_8b_nf4.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   rtx4090:1: 18.4 of 21.6 GiB a chip, 25.7 s a step, 2,552 tokens/s
          v5e:1x1: 10.4 of 15.8 GiB a chip, 21.4 s a step, 3,066 tokens/s
result    export/ is an adapter for PEFT and vLLM, trained beside the model in four bits

What llama3_8b.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "llama3_8b.py")
    return recipes.adapters(full, batch_size=16, microbatches=16, frozen_dtype="nf4")
