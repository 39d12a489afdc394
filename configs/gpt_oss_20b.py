"""Fine-tunes all weights of gpt-oss-20b on your own conversations.

for       a model that reasons before it answers, with data that have reasoning
command   python -m jaxsft.train --config=configs/gpt_oss_20b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:8: 67.1 of 72.8 GiB a chip, 1.36 s a step, 96,076 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Its weights come in mxfp4 and are kept in bfloat16; an export has them so. Data
without reasoning teach it to answer at once.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    return recipes.all_weights("openai/gpt-oss-20b", batch_size=32, microbatches=2)
