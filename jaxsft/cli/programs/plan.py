"""Compiles the training step of a run for devices that aren't there, and says what it will need.

python tools/plan.py --config=F.py --topology=v5p:2x2x2 [--slices=N] [--json] [--search]

Topologies: v5p:2x2x2, v5e:4x4, v6e:8x8 (pip install 'jaxsft[plan]'), h200:8, h100:8x4
(pip install 'jaxsft[plan-gpu]' or, for CUDA 13, 'jaxsft[plan-gpu13]'), cpu:8. Neither weights nor
accelerators are needed; prepared data are used where they are there.
"""

import json
import os
import sys

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.convert import pretrained
from jaxsft.training import inputs, parameters, teacher

jaxsft_flags.define_config()
_TOPOLOGY = flags.DEFINE_string("topology", None, "such as v5p:2x2x2, h200:8 or cpu:8")
_SLICES = flags.DEFINE_integer("slices", 1, "TPU slices, or groups of GPU boxes", 1)
_JSON = flags.DEFINE_bool("json", False, "print one JSON object")
_SEARCH = flags.DEFINE_bool("search", False, "compile other meshes, remat and micro-batches too")
_TRIES = flags.DEFINE_integer("tries", 12, "programs that --search compiles at most", 1)
_MINUTES = flags.DEFINE_float("minutes", 30, "after which --search begins no other program", 0)


def start() -> None:
    jaxsft_flags.run_program(main, required=("topology",))


def main(config: Config) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"
    name = jaxsft_flags.given(_TOPOLOGY)
    if name.startswith("cpu:"):
        count = f"--xla_force_host_platform_device_count={name.partition(':')[2]}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    from rich.console import Console

    from jaxsft.plan import measured_data, relief, search, text, topology

    terminal = Console()
    found = topology.open_topology(name, _SLICES.value)
    base = inputs.open_model(config, lambda topic, line: None, weights=False)
    stored = pretrained.stored_dtypes(base)
    config = parameters.with_known_dtype(config, stored)
    taught = teacher.open_teacher(config, base.settings, weights=False)
    run = measured_data.look(config, base)
    if _SEARCH.value:
        limits = _TRIES.value, _MINUTES.value
        tried = search.search(config, base.settings, found, run.rows, *limits, _say, taught)
        if _JSON.value:
            print(json.dumps([search.as_json(one, found, run) for one in tried], indent=2))
        else:
            search.show(tried, terminal)
        return 0 if tried else 1
    made = relief.estimated(config, base.settings, found, run.rows, _say, stored, taught)
    if _JSON.value:
        print(json.dumps(text.as_json(made, found, run), indent=2))
    else:
        text.show(made, found, run, terminal)
        if not made.memory.fits:
            _say("trying what would fit, which takes some minutes")
            said = relief.of_estimate(config, base.settings, found, run.rows, made, taught)
            terminal.print(said)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # beside the JSON
