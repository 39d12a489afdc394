"""Trains adapters of rank 16 for SmolLM2-135M, a base model, on your own conversations.

for       trying adapters out in minutes; to use so small a model, train all of its weights
command   python -m jaxsft.train --config=configs/smollm2_135m_lora.py --workdir=runs/mine
hardware  one GPU or TPU chip; on a CPU set sequence_length and batch_size lower
data      data/train.jsonl and data/heldout.jsonl
planned   v5e:1x1: 13.1 of 15.8 GiB a chip, 0.64 s a step, 51,183 tokens/s
result    export/ is an adapter for PEFT and vLLM; --config.checkpoint.merge=true: a model too

What smollm2_135m.py says of model and data holds here too.
"""

from jaxsft import recipes
from jaxsft.config import Config


def get_config() -> Config:
    full = recipes.beside(__file__, "smollm2_135m.py")
    return recipes.adapters(full, batch_size=16, peak_lr=1e-3)
