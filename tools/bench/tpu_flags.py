"""What options of the TPU's compiler do to a step: its collectives, its memory, or the refusal.

python tools/bench/tpu_flags.py --config=F.py --topology=v5p:2x2x1 --options=a=true,b=true

Each --options is one set, compiled beside none. Needs the extra `plan`.
"""

import collections
import re

import jax
from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.plan import estimate
from jaxsft.plan.topology import open_topology
from jaxsft.training import inputs, mesh_program

_TOPOLOGY = flags.DEFINE_string("topology", None, "slice to compile for, such as v5p:2x2x1")
_OPTIONS = flags.DEFINE_multi_string("options", [], "of the compiler: name=value,name=value")
_KINDS = re.compile(
    r" ((?:all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?)\("
)
_ASYNCHRONOUS = re.compile(r"async[-_]collective")
jaxsft_flags.define_config()


def main(config: Config) -> None:
    topology = open_topology(jaxsft_flags.given(_TOPOLOGY))
    base = inputs.open_model(config, lambda topic, line: None, weights=False).settings
    config = estimate.on_slices(config, topology)
    mesh = mesh_program.checked_mesh(config, base, topology.devices)
    program = mesh_program.make_program(config, base, config.train.steps or 100, mesh)
    lowered = mesh_program.lower_train_step(program, config)
    for text in ("", *_OPTIONS.value):
        print(f"{text or 'none'}: {_compiled(lowered, mesh, text)}", flush=True)


def _compiled(lowered, mesh: jax.sharding.Mesh, text: str) -> str:
    options = dict(pair.split("=") for pair in text.split(",") if pair)
    values = {name: {"true": True, "false": False}.get(v, v) for name, v in options.items()}
    with jax.set_mesh(mesh):
        try:
            compiled = lowered.compile(compiler_options=values)
        except jax.errors.JaxRuntimeError as error:
            return f"refused: {str(error).partition('. ')[0][:160]}"
    program, memory = compiled.as_text(), compiled.memory_analysis()
    held = (memory.peak_memory_in_bytes - memory.argument_size_in_bytes) / 1e6
    kinds = collections.Counter(_KINDS.findall(program))
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"held {held:.1f} MB; {counted}; {len(_ASYNCHRONOUS.findall(program))} asynchronous"


if __name__ == "__main__":
    jaxsft_flags.run_program(main, required=("topology",))
