"""Fine-tunes all weights of Mixtral-8x7B-Instruct-v0.1 on your own conversations.

for       continuing what was built on it: newer mixtures are smaller and stronger
command   python -m jaxsft.train --config=configs/mixtral_8x7b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h200:8: 123.7 of 128.5 GiB a chip, 3.13 s a step, 41,884 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Where its hub page asks for it, accept its licence and log in before the first run.
Its template knows no tools.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    return recipes.all_weights("mistralai/Mixtral-8x7B-Instruct-v0.1", batch_size=32)
