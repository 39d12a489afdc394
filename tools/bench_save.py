"""Measures what a checkpoint costs: how long it holds the loop up, and its digests' share of it.

python tools/bench_save.py --config=configs/bench_smollm2.py [--config.model.source=DIR]
    [--synthetic_segments=4] [--rounds=5] [--directory=DIR]

Each round takes a step, then saves the whole state, reads it back and deletes the one before, as a
run does. All times are of the processor, over all of its cores: a machine that does other things
too, and a slow disk, change them little. Medians of the rounds are printed, and JSON with --json.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.training.inputs import open_model

jaxsft_flags.define_config()
_SEGMENTS = flags.DEFINE_integer("synthetic_segments", 4, "random rows of this many segments", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "measured", 1)
_DIRECTORY = flags.DEFINE_string("directory", None, "to save in; else that of temporary files")
_JSON = flags.DEFINE_bool("json", False, "print one JSON object")


def main(config: Config) -> None:
    from bench import save
    from bench.ours import Ours

    from jaxsft.devices import compile_cache
    from jaxsft.files.caches import cache_root

    config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights="random"))
    compile_cache.use(cache_root(None))
    base = open_model(config, lambda topic, line: None, weights=False)
    ours = Ours(config, base, _SEGMENTS.value)
    with tempfile.TemporaryDirectory(dir=_DIRECTORY.value) as folder:
        found = save.measure(ours, Path(folder), _ROUNDS.value)
    if _JSON.value:
        print(json.dumps(dataclasses.asdict(found)))
        return
    print(f"state      {found.state_bytes / 1e9:.2f} GB")
    print(f"step       {found.step_seconds:.2f} s of the processor")
    print(f"save       {found.save_seconds:.2f} s, in the background but for the next line")
    print(
        f"blocked    {found.blocked_seconds:.2f} s = {found.blocked_share_of_step:.1%} of a step"
        f" ({found.blocked_wall_seconds:.2f} s of the clock)"
    )
    print(
        f"digests    {found.digest_seconds:.2f} s = {found.digest_share_of_save:.1%} of a save:"
        f" {found.device_digest_seconds:.2f} s before it, on the device,"
        f" {found.digest_seconds - found.device_digest_seconds:.2f} s when it is read back"
    )


if __name__ == "__main__":
    jaxsft_flags.run_program(main)
