"""Fine-tunes all weights of Gemma-3-4B-it on your own conversations.

for       one task or a style in one of its many languages
command   python -m jaxsft.train --config=configs/gemma3_4b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   v6e:2x2: 25.8 of 31.2 GiB a chip, 3.98 s a step, 32,917 tokens/s
          h100:4: 39.9 of 72.8 GiB a chip, 1.87 s a step, 70,105 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Where its hub page asks for it, accept its licence and log in before the first run. Its
text part is trained; the part that sees images goes into the export as it was.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    return recipes.all_weights("google/gemma-3-4b-it", batch_size=32, microbatches=4)
