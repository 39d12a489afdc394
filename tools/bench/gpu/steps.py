"""The training step of a published shape: time, memory, choices, and its costliest operations."""

import dataclasses
import gc
import gzip
import time
from pathlib import Path

from bench import measured_steps, profile
from bench.gpu import predicted, results
from bench.ours import Ours
from jaxsft.cli import config_file
from jaxsft.config import Config, Lora
from jaxsft.devices import compile_cache
from jaxsft.files.caches import cache_root
from jaxsft.training import inputs

_KEPT = ("mfu", "hfu", "tokens_per_second", "compile_seconds", "losses", "choices")
_NUM_SEGMENTS, _NUM_PROFILED, _NUM_COSTLIEST = 4, 2, 20
_MICROBATCHES = 16


@dataclasses.dataclass(frozen=True)
class Try:
    """A way to take the step: `4:none:16`, `2:full:12:cudnn:16`, `2:auto:nf4` on the command line.

    Attributes:
        trained: all weights, by the bytes that each takes with gradient and moments: 16 in float32,
            or 12. Or adapters of rank 16, in a step of 16 micro-batches of `batch_size`: `lora`, or
            `nf4` beside a model in four bits.
    """

    batch_size: int
    remat: str
    trained: str
    attention: str = "auto"
    unroll_layers: str = ""

    @classmethod
    def of(cls, text: str) -> "Try":
        batch_size, *rest = text.split(":")
        return cls(int(batch_size), *rest)

    @property
    def adapters(self) -> bool:
        return self.trained in ("lora", "nf4")


def measure(model: str, tries: str, num_steps: str = "12", profiled: str = "") -> int:
    """Measures the first that fits of each group, `A,B+C`: A or else B, then C.

    The first of them is profiled. The exit code says whether every group had one that fits.
    """
    compile_cache.use(cache_root(None))
    failed = 0
    for group in tries.split("+"):
        failed |= _measure_first(model, group, num_steps, profiled)
        profiled = ""
        gc.collect()
    return failed


def _measure_first(model: str, tries: str, num_steps: str, profiled: str) -> int:
    for one in map(Try.of, tries.split(",")):
        since = time.time()
        trained = one.trained if one.adapters else f"{one.trained}B"
        how = f"{one.remat} {trained} {one.attention} {one.unroll_layers}".rstrip()
        name = f"{model} B{one.batch_size} {how}"
        warm = 1 if one.adapters else 3  # of 16 micro-batches each
        try:
            ours = _measure(_config(model, one), name, warm, int(num_steps))
        except Exception as error:  # the next may fit
            results.put("step", name=name, error=results.said(error), total_s=time.time() - since)
            gc.collect()
            continue
        if profiled:
            _profile(model, ours)
        return 0
    return 1


def _config(model: str, one: Try) -> Config:
    root = Path(__file__).resolve().parents[3] / "configs"
    config = config_file.load(str(root / "bench_gpu.py"))
    optim, microbatches = config.optim, _MICROBATCHES if one.adapters else 1
    if one.trained == "12":
        optim = dataclasses.replace(optim, gradient_dtype="bfloat16", first_moment_dtype="bfloat16")
    tiny = results.is_tiny()
    source = root / "debug_model" if tiny else root / "bench_models" / model
    shown = dataclasses.replace(
        config.model,
        source=str(source),
        remat=one.remat,
        attention=one.attention,
        unroll_layers=int(one.unroll_layers) if one.unroll_layers else None,
        frozen_dtype={"nf4": "nf4", "lora": "bfloat16"}.get(one.trained, "source"),
    )
    return dataclasses.replace(
        config,
        model=shown,
        data=dataclasses.replace(config.data, sequence_length=256 if tiny else 4096),
        optim=optim,
        lora=Lora(rank=16, alpha=32.0) if one.adapters else None,
        train=dataclasses.replace(
            config.train, batch_size=one.batch_size * microbatches, microbatches=microbatches
        ),
    )


def _measure(config: Config, name: str, num_warm: int, num_steps: int) -> Ours:
    since = time.time()
    base = inputs.open_model(config, lambda topic, line: None, weights=False)
    ours = Ours(config, base, _NUM_SEGMENTS)
    built = time.time() - since
    ours.run(num_warm)
    found = measured_steps.measurement(config, ours, ours.run(num_steps))
    results.put(
        "step",
        name=name,
        step_ms=found.step_seconds.median * 1e3,
        **{kept: getattr(found, kept) for kept in _KEPT},
        GiB_compiled=found.memory.compiled_bytes / 2**30,
        GiB_limit=(ours.memory.limit_bytes or 0) / 2**30,
        GiB_peak=(found.memory.device_peak_bytes or 0) / 2**30,
        **_planned(config, ours),
        total_s=time.time() - since,
        build_s=built,
    )
    return ours


def _planned(config: Config, ours: Ours) -> dict[str, float | str]:
    try:
        return {**predicted.of_step(config, ours, _NUM_SEGMENTS)}
    except Exception as error:  # a text that the plan can't read: what was measured stays
        return {"plan_error": results.said(error)}


def _profile(model: str, ours: Ours) -> None:
    """Leaves the trace and the program's text beside the results, and says what costs most."""
    try:
        work = results.scratch() / f"trace_{model}"
        trace = profile.trace(work, lambda: ours.run(_NUM_PROFILED))
        text = ours.compiled.as_text()
        zipped = {"trace.xplane.pb.gz": trace.read_bytes(), "trace_hlo.txt.gz": text.encode()}
        for name, content in zipped.items():
            (results.folder() / name).write_bytes(gzip.compress(content))
        recorded = profile.read(trace)
        if of_gpu := profile.time_of_gpus(recorded, _NUM_PROFILED):
            whole = {name: getattr(of_gpu, name) for name in ("span_ms", "busy_ms", "idle_ms")}
            results.put("profile_kinds", model=model, kind="whole step", **whole)
            for kind in of_gpu.kinds:
                results.put("profile_kinds", model=model, **dataclasses.asdict(kind))
        for row in profile.costliest(recorded, text, _NUM_COSTLIEST):
            results.put("profile", model=model, **dataclasses.asdict(row))
    except Exception as error:  # the step's own figures are there
        results.put("profile", model=model, error=results.said(error))
