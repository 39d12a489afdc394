"""Fine-tunes all weights of Mistral-7B-Instruct-v0.3 on your own conversations.

for       one task or a style, tools included, with ten thousand conversations or more
command   python -m jaxsft.train --config=configs/mistral_7b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:8: 30.6 of 72.8 GiB a chip, 1.55 s a step, 84,506 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Where its hub page asks for it, accept its licence and log in before the first run.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    return recipes.all_weights("mistralai/Mistral-7B-Instruct-v0.3", batch_size=32, microbatches=4)
