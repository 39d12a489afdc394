"""XLA's flags for programs that tests run: compiling dominates, and these leave an eighth of it."""

from importlib import metadata

_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
# A process ends at a flag that its XLA doesn't know; this one is unknown to jaxlib 0.12.
if metadata.version("jaxlib").startswith("0.10."):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
XLA_FLAGS = " ".join(_FLAGS)
