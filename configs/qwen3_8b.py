"""Fine-tunes all weights of Qwen3-8B on your own conversations.

for       much to be learnt: a language, a field, ten thousand conversations or more
command   python -m jaxsft.train --config=configs/qwen3_8b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:8: 35.6 of 72.8 GiB a chip, 1.72 s a step, 76,025 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Its template leaves the reasoning of earlier turns out, so each turn of a conversation is an example
of its own. Data without reasoning: --config.data.template_options='{"enable_thinking": false}'
trains the answers that this switch asks for.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    return recipes.all_weights("Qwen/Qwen3-8B", batch_size=32, microbatches=4)
