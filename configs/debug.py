"""A random two-layer model and a handful of conversations: every part of a run, in seconds.

command   python -m jaxsft.train --config=configs/debug.py --workdir=runs/debug
hardware  any; one CPU core is enough
time      under a minute on two CPU cores
result    loss from 6.3 (about ln 512) to 4.7 on the training data, 5.0 held out; answers are noise
"""

from pathlib import Path

from jaxsft.config import Checkpoint, Config, Data, Eval, Log, Model, Optim, Source, Train

_HERE = Path(__file__).parent
_DATA = _HERE / "debug_data"


def get_config() -> Config:
    return Config(
        model=Model(source=str(_HERE / "debug_model"), weights="random", dtype="float32"),
        data=Data(
            train=(
                Source(path=str(_DATA / "train.jsonl")),
                Source(path=str(_DATA / "prompts.jsonl")),
            ),
            eval=(Source(path=str(_DATA / "heldout.jsonl")),),
            sequence_length=128,
        ),
        optim=Optim(peak_lr=3e-3, warmup_steps=0),
        train=Train(batch_size=8, steps=20),
        checkpoint=Checkpoint(save_every_steps=10),
        eval=Eval(every_steps=10, prompts=2, max_new_tokens=16),
        log=Log(every_steps=1),
    )
