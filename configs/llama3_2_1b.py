"""Fine-tunes all weights of Llama-3.2-1B-Instruct on your own conversations.

for       a narrow task where the model must be small
command   python -m jaxsft.train --config=configs/llama3_2_1b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   v5e:2x2: 14.8 of 15.8 GiB a chip, 2.73 s a step, 24,021 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Where its hub page asks for it, accept its licence and log in before the first run. Its template
writes today's date; config.data.template_date pins one.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    model = "meta-llama/Llama-3.2-1B-Instruct"
    return recipes.all_weights(model, batch_size=16, microbatches=2, peak_lr=2e-5)
