"""Fine-tunes all weights of Llama 3.1 8B, a base model, on your own conversations.

command   python -m jaxsft.train --config=configs/llama3_8b.py --workdir=runs/llama3_8b
hardware  one TPU v5p-8 slice (4 chips of 95 GB) or 8 GPUs of 80 GB
memory    24 GB a chip for parameters and AdamW; 23 GB for the rest with remat full, by the compiler
          for 4 v5p chips, and more with the faster policy that the run finds to fit; 34 GiB of each
          of 8 H100 with save_projections
time      not measured yet: this config has been compiled for v5p and H100, not run
result    depends on your data; report.html shows loss and answers before and after

data/train.jsonl and data/heldout.jsonl are yours, one conversation a line. The model is gated:
accept its licence on its hub page and log in before the first run.
Parameters, gradients and both Adam moments are 16 bytes a parameter in float32, 128 GB in all; the
open fsdp axis splits them over all devices.
"""

from pathlib import Path

from jaxsft.config import Checkpoint, Config, Data, Eval, Log, Mesh, Model, Optim, Source, Train

# A base model has no chat template; its vocabulary holds the control tokens of the Instruct models.
_TEMPLATE = Path(__file__).parent / "templates" / "llama3.jinja"


def get_config() -> Config:
    return Config(
        model=Model(source="meta-llama/Llama-3.1-8B", dtype="bfloat16"),
        data=Data(
            train=(Source(path="data/train.jsonl"),),
            eval=(Source(path="data/heldout.jsonl"),),
            sequence_length=4096,
            template=str(_TEMPLATE),
        ),
        mesh=Mesh(fsdp=None),
        optim=Optim(peak_lr=1e-5, warmup_steps=50, b2=0.95),
        train=Train(batch_size=32, epochs=2, microbatches=4),
        checkpoint=Checkpoint(save_every_steps=200),
        eval=Eval(every_steps=200, prompts=8),
        log=Log(every_steps=5),
    )
