"""Turns SmolLM2-135M, a base model, into a chat model on your own conversations.

command   python -m jaxsft.train --config=configs/smollm2_135m.py --workdir=runs/smollm2
hardware  one GPU or TPU chip; on a CPU set sequence_length and batch_size lower
planned   v5e:1x1: 13.1 of 15.8 GiB a chip, 0.591 s a step, 55,439 tokens/s
result    depends on your data; report.html shows loss and answers before and after

data/train.jsonl and data/heldout.jsonl are yours, one conversation a line:
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
"""

from pathlib import Path

from jaxsft.config import Checkpoint, Config, Data, Eval, Log, Model, Optim, Source, Train

# A base model has no chat template; this model's vocabulary holds ChatML's control tokens.
_TEMPLATE = Path(__file__).parent / "templates" / "chatml.jinja"


def get_config() -> Config:
    return Config(
        model=Model(source="HuggingFaceTB/SmolLM2-135M"),
        data=Data(
            train=(Source(path="data/train.jsonl"),),
            eval=(Source(path="data/heldout.jsonl"),),
            sequence_length=2048,
            template=str(_TEMPLATE),
        ),
        optim=Optim(peak_lr=3e-4, warmup_steps=20),
        train=Train(batch_size=16, epochs=2),
        checkpoint=Checkpoint(save_every_steps=200),
        eval=Eval(every_steps=100, prompts=8),
        log=Log(every_steps=5),
    )
