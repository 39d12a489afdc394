"""The training step of a published shape with random weights, to be measured on one GPU.

command   python tools/bench.py --config=configs/bench_gpu.py --synthetic_segments=4
hardware  one GPU of 80 GB or more
memory    31 GiB, by XLA's compiler for an H100
time      two minutes, most of it compiling
result    docs/performance.md has the commands for each shape, and what was measured

Other shapes: --config.model.source=configs/bench_models/NAME. Their directories hold a config.json
and no weights. There is no data: rows are random tokens.
"""

from pathlib import Path

from jaxsft.config import Config, Data, Model, Optim, Source, Train

_MODEL = Path(__file__).parent / "bench_models" / "qwen3_0_6b"


def get_config() -> Config:
    return Config(
        model=Model(source=str(_MODEL), weights="random", dtype="bfloat16"),
        data=Data(train=(Source(path="none.jsonl"),), sequence_length=4096),
        optim=Optim(peak_lr=1e-5, warmup_steps=0),
        train=Train(batch_size=4, steps=100),
    )
