"""SmolLM2-135M-Instruct on your conversations, as tools/bench.py compares it with other trainers.

command   python tools/bench.py --config=configs/bench_smollm2.py --real_weights
          --config.data.train[0].path=FILE.jsonl
hardware  two CPU cores, 8 GB of memory
time      some seconds a step
result    docs/performance.md

float32, since a CPU is no faster at anything else here; the model is the quickstart's.
"""

import dataclasses
from pathlib import Path

from jaxsft.cli.config_file import load
from jaxsft.config import Checkpoint, Config, Data, Eval, Optim, Source, Train


def get_config() -> Config:
    quickstart = load(str(Path(__file__).with_name("quickstart.py")))
    return dataclasses.replace(
        quickstart,
        data=Data(train=(Source(path="data/train.jsonl"),), sequence_length=1024),
        optim=Optim(peak_lr=2e-5, warmup_steps=0),
        train=Train(batch_size=1, epochs=1),
        checkpoint=Checkpoint(export=False),
        eval=Eval(),
    )
