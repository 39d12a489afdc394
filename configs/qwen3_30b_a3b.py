"""Fine-tunes all weights of Qwen3-30B-A3B on your own conversations.

for       much to be learnt where answers must come fast: 3B of its 30B work for a token
command   python -m jaxsft.train --config=configs/qwen3_30b_a3b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h200:8: 106.7 of 128.5 GiB a chip, 1.33 s a step, 98,376 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Its template leaves the reasoning of earlier turns out, so each turn of a conversation is an example
of its own. Data without reasoning: --config.data.template_options='{"enable_thinking": false}'
trains the answers that this switch asks for.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    return recipes.all_weights("Qwen/Qwen3-30B-A3B", batch_size=32, microbatches=2)
