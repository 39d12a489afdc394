"""Measures the laws of training with a run's model shape and mesh on this hardware.

python tools/selfcheck.py --config=F.py [--config.mesh.tensor=2 ...]

Random weights, few layers, made-up rows: neither the weights nor the data are read. Exit status 70
where a law does not hold. On several hosts it is started on each of them, like the training itself,
with --scratch=a directory that they share: one law restarts from a checkpoint.
"""

import dataclasses
import sys

from absl import flags

from jaxsft import errors
from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.training import inputs, teacher

jaxsft_flags.define_config()
jaxsft_flags.define_peers()
_SCRATCH = flags.DEFINE_string("scratch", None, "a directory that all hosts see; /tmp if not set")


def start() -> None:
    jaxsft_flags.run_program(main)


def main(config: Config) -> int:
    import jax
    from rich.console import Console
    from rich.table import Table

    from jaxsft.checks import laws
    from jaxsft.devices import distributed

    distributed.connect(
        *jaxsft_flags.peers(), lambda line: print(line, file=sys.stderr, flush=True)
    )
    distributed.refuse_differences(distributed.facts(config))
    base = inputs.open_model(config, lambda topic, line: None, weights=False)
    if stored := teacher.stored_top_k(config) is not None:
        config = dataclasses.replace(config, distil=None)
    taught = teacher.open_teacher(config, base.settings, weights=False)
    table = Table("law", "with", "difference", "allowed", "")
    failed = 0
    with distributed.scratch(_SCRATCH.value) as folder:
        for check in laws.measured(config, base.settings, folder, taught):
            passed = all(one["passed"] for one in distributed.gather({"passed": check.passed}))
            failed += not passed
            verdict = "passed" if passed else "FAILED"
            table.add_row(
                check.law,
                check.ran_with,
                f"{check.difference:.1e}",
                f"{check.allowed:.0e}",
                verdict,
            )
    if jax.process_index() == 0:
        kind = jax.devices()[0].device_kind
        print(f"{config.model.source} on {len(jax.devices())} x {kind}:")
        Console().print(table)
        if stored:
            print("without config.distil: what a teacher said in rows is not made up here")
        if config.distil is not None:
            name = config.distil.teacher
            print(f"with a teacher like {name}, as small as the model: KL is in all gradients")
        if config.model.remat == "auto":
            print("remat auto: only its first policy; a run takes the first that fits the devices")
    return errors.INTERNAL if failed else errors.DONE
