"""Compares the weights of two models: how far each moved, in how many directions, and the loss.

    python tools/compare_models.py BASE RESULT [--data=F.jsonl ...] [--rank_layers=3] [--json]

Each may be what config.model.source may: a directory, hub id, .gguf file, adapter or run.
Both are held in float32, over all devices of this machine. The sets of --data are rendered with
RESULT's tokenizer and template for both.
"""

import json
import sys
from typing import TYPE_CHECKING

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config, Data, Eval, Model, Optim, Source, Train, validate
from jaxsft.errors import ConfigError

if TYPE_CHECKING:
    from jaxsft.convert.pretrained import Pretrained

_DATA = flags.DEFINE_multi_string("data", [], "a set to measure the loss on; may be repeated")
_LENGTH = flags.DEFINE_integer(
    "sequence_length", 1024, "tokens of a row of --data; longer conversations are left out", 2
)
_RANK_LAYERS = flags.DEFINE_integer(
    "rank_layers", 3, "layers whose matrices' ranks are looked at, from the first to the last", 0
)
_JSON = flags.DEFINE_bool("json", False, "prints one JSON object")


def start() -> None:
    jaxsft_flags.run_tool(main, words=("BASE", "RESULT"))


def main(base: str, result: str) -> None:
    # These take seconds to import: not before the command line is known good.
    import rich.console

    from jaxsft.convert import pretrained
    from jaxsft.report import compared_models

    models = [pretrained.open_pretrained(name) for name in (base, result)]
    refuse_others(*models)
    configs = [_config(model, models[1]) for model in models]
    found = compared_models.compared(configs, models, _RANK_LAYERS.value, bool(_DATA.value))
    if _JSON.value:
        json.dump(compared_models.as_json(found), sys.stdout, indent=2)
        print()
    else:
        compared_models.show(found, rich.console.Console(highlight=False, soft_wrap=True))


def _config(model: "Pretrained", result: "Pretrained") -> Config:
    """A run that would only evaluate; it has training data because each run has."""
    from jaxsft.convert import source

    sets = tuple(Source(path=path) for path in _DATA.value)
    config = Config(
        model=Model(source=model.source, dtype="float32"),
        data=Data(
            train=sets[:1] or (Source(path="none"),),
            eval=sets,
            sequence_length=min(_LENGTH.value, result.settings.max_positions),
            tokenizer=str(source.tokenizer_directory(result.source)) if sets else None,
        ),
        optim=Optim(peak_lr=1e-5),
        train=Train(batch_size=8, steps=1),
        eval=Eval(),
    )
    validate(config)
    return config


def refuse_others(base: "Pretrained", result: "Pretrained") -> None:
    """Refuses models whose weights have no partners.

    Raises:
        ConfigError: another family, or other sizes.
    """
    kinds = [model.config.get("model_type") for model in (base, result)]
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"{result.source}: is a model of family {kinds[1]!r}, and {base.source} of"
            f" {kinds[0]!r}; their weights can't be compared"
        )
    sizes = ("num_layers", "embed_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "moe")
    ours, theirs = (vars(model.settings) for model in (base, result))
    other = [name for name in (*sizes, "tied_embeddings") if ours[name] != theirs[name]]
    if other:
        said = "; ".join(f"{name} is {theirs[name]} and {ours[name]}" for name in other)
        raise ConfigError(
            f"{result.source}: has other sizes than {base.source}: {said}; their weights can't be"
            " compared"
        )
