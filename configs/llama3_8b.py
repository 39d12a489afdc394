"""Fine-tunes all weights of Llama 3.1 8B, a base model, on your own conversations.

for       much to be learnt: a language, a field, ten thousand conversations or more
command   python -m jaxsft.train --config=configs/llama3_8b.py --workdir=runs/llama3_8b
hardware  one TPU v5p-8 slice (4 chips of 95 GB) or 8 GPUs of 80 GB
data      data/train.jsonl, or --config.data.train[0].path=...; 5 % of it are held out
planned   v5p:2x2x1: 62.8 of 95.7 GiB a chip, 5.21 s a step, 25,167 tokens/s
          h100:8: 34.3 of 72.8 GiB a chip, 1.66 s a step, 79,169 tokens/s
time      not measured yet: this config has been compiled for v5p and H100, not run
result    loss and answers on the held-out part, before and after, in report.html

The model is gated: accept its licence on its hub page and log in before the first run.
Parameters, gradients and both Adam moments are 16 bytes a parameter in float32, 128 GB in all; the
open fsdp axis splits them over all devices.
"""

from pathlib import Path

from jaxsft import recipes
from jaxsft.config import Config

# A base model has no chat template; its vocabulary holds the control tokens of the Instruct models.
_TEMPLATE = Path(__file__).parent / "templates" / "llama3.jinja"


def get_config() -> Config:
    return recipes.all_weights(
        "meta-llama/Llama-3.1-8B", batch_size=32, microbatches=4, template=str(_TEMPLATE)
    )
