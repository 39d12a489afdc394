"""Measures the training step of a run, alone or in turns with another trainer on the same work.

python tools/bench.py --config=F.py [--steps=20 --warmup=3] [--json] [--synthetic_segments=4]
    [--real_weights] [--peer=transformers|trl|tunix --peer_python=PATH] [--profile=DIR]

Weights are random ones of the model's shape unless --real_weights is given. A peer needs a Python
that has its packages. --profile leaves a trace there and shows the costliest operations; of a
GPU first how long it is idle, and how long each kind of work takes.
"""

import dataclasses
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.training.inputs import open_model

if TYPE_CHECKING:
    from bench.measurement import StepMeasurement
    from bench.ours import Ours

jaxsft_flags.define_config()
_PEERS = ["transformers", "trl", "tunix"]
_STEPS = flags.DEFINE_integer("steps", 20, "measured; with a peer, rounds of one step each", 1)
_WARMUP = flags.DEFINE_integer("warmup", 3, "steps before", 1)
_JSON = flags.DEFINE_bool("json", False, "print one JSON object")
_SAVE = flags.DEFINE_string("save", None, "file for that JSON, as tools/bench_page.py reads it")
_SEGMENTS = flags.DEFINE_integer(
    "synthetic_segments", None, "random rows of this many segments, not the config's data", 1
)
_REAL = flags.DEFINE_bool("real_weights", False, "the model's own weights, not random ones")
_PEER = flags.DEFINE_enum("peer", None, _PEERS, "a trainer to take turns with")
_PYTHON = flags.DEFINE_string("peer_python", sys.executable, "a Python that has the peer")
_COMPILE = flags.DEFINE_bool("peer_compile", False, "transformers: SDPA and torch.compile")
_GROUPED = flags.DEFINE_bool("peer_length_grouped", False, "trl: batches of similar lengths")
_ROWS = flags.DEFINE_integer("peer_batch_size", 8, "trl, tunix: conversations in a batch", 1)
_TEMPLATE = flags.DEFINE_string(
    "peer_template",
    None,
    "trl, tunix: a chat template that marks what is trained ({% generation %})",
)
_PROFILE = flags.DEFINE_string("profile", None, "directory for a trace of three steps")
_PROFILED_STEPS = 3


def main(config: Config) -> None:
    from bench import measured_steps, measurement, terminal_summary
    from bench.ours import Ours

    from jaxsft.devices import compile_cache, distributed
    from jaxsft.files.caches import cache_root

    weights = "pretrained" if _REAL.value else "random"
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=weights))
    compile_cache.use(cache_root(None))
    if _PEER.value:
        # Both have to find room on one GPU.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        found = _against_peer(config)
    else:
        if memory_share := distributed.open_devices():
            print(f"memory  {memory_share}", file=sys.stderr)
        base = open_model(config, lambda topic, line: None, weights=_REAL.value)
        ours = Ours(config, base, _SEGMENTS.value)
        ours.run(_WARMUP.value)
        found = measured_steps.measurement(config, ours, ours.run(_STEPS.value))
        if _PROFILE.value:
            _show_profile(ours, Path(_PROFILE.value))
    found = dataclasses.replace(found, command=shlex.join(["python", *sys.argv]))
    if _SAVE.value:
        Path(_SAVE.value).write_text(measurement.text(found) + "\n")
    print(measurement.text(found) if _JSON.value else terminal_summary.summary(found))


def _show_profile(ours: "Ours", folder: Path) -> None:
    from bench import profile

    recorded = profile.read(profile.trace(folder, lambda: ours.run(_PROFILED_STEPS)))
    operations = profile.costliest(recorded, ours.compiled.as_text())
    print(profile.table(operations, profile.time_of_gpus(recorded, _PROFILED_STEPS)))


def _against_peer(config: Config) -> "StepMeasurement":
    from bench import peer_job, peer_turns
    from bench.ours import Ours
    from bench.peer import Peer

    with tempfile.TemporaryDirectory() as folder:
        steps = _STEPS.value + _WARMUP.value
        job = peer_job.write(config, _PEER.value, Path(folder), _SEGMENTS.value, steps)
        job |= {
            "compile": _COMPILE.value,
            "length_grouped": _GROUPED.value,
            "batch_size": _ROWS.value,
            "template": _TEMPLATE.value,
        }
        with Peer(_PEER.value, _PYTHON.value, job) as peer:
            base = open_model(config, lambda topic, line: None, weights=_REAL.value)
            ours = Ours(config, base, _SEGMENTS.value)
            return peer_turns.measure(config, ours, peer, _WARMUP.value, _STEPS.value)


if __name__ == "__main__":
    jaxsft_flags.run_program(main)
