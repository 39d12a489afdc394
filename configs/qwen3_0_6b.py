"""Fine-tunes all weights of Qwen3-0.6B on your own conversations.

for       a narrow task on a phone or a CPU: sorting, extracting, short answers
command   python -m jaxsft.train --config=configs/qwen3_0_6b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:1: 69.5 of 72.8 GiB a chip, 0.79 s a step, 82,965 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Its template leaves the reasoning of earlier turns out, so each turn of a conversation is an example
of its own. Data without reasoning: --config.data.template_options='{"enable_thinking": false}'
trains the answers that this switch asks for.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    return recipes.all_weights("Qwen/Qwen3-0.6B", batch_size=16, peak_lr=2e-5)
