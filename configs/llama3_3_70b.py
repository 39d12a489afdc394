"""Fine-tunes all weights of Llama-3.3-70B-Instruct on your own conversations.

for       a lab with a pod and a hundred thousand conversations: try llama3_3_70b_lora.py first
command   python -m jaxsft.train --config=configs/llama3_3_70b.py --workdir=runs/mine
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   h100:8x4: 56.5 of 72.8 GiB a chip, 3.75 s a step, 34,947 tokens/s
result    loss and answers on the held-out part, before and after, in report.html

Where its hub page asks for it, accept its licence and log in before the first run. Its template
writes today's date; config.data.template_date pins one.
"""

from jaxsft import recipes
from jaxsft.config import Config, Mesh


def get_config() -> Config:
    # One replica over all boxes: a box of eight GPUs alone doesn't hold 141 GB for each.
    mesh = Mesh(data=1)
    return recipes.all_weights("meta-llama/Llama-3.3-70B-Instruct", batch_size=32, mesh=mesh)
