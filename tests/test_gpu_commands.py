"""Every command that the docs give for a GPU is for one that holds it, and says what it needs."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from jaxsft.cli import config_file, flags
from jaxsft.config import Config
from jaxsft.convert.pretrained import open_pretrained
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.model.remat import candidates
from jaxsft.model.settings import DecoderSettings
from jaxsft.plan import estimate, sizing, topology
from jaxsft.plan.batch_load import BatchLoad
from jaxsft.plan.topology import Topology

ROOT = Path(__file__).resolve().parents[1]
# What says that a line of a block, or a docstring, is for GPUs.
_FOR_GPUS = re.compile(r"bench_gpu\.py|--topology=[ah]\d+0:")
_HARDWARE = re.compile(r"\b(one|\d+) (A100|H100|H200)\b(?:[^\n]*?, ([\d.]+) GiB)?")
_ANY_GPUS = re.compile(
    r"^hardware.*?\b(one|\d+) GPUs?\b(?: of (\d+) GB)?", re.MULTILINE | re.DOTALL
)
_BY_GB = {"80": "h100", "141": "h200", None: "a100"}
# Models that the docs name by their hub id; the sizes of the latter are its card's.
_SHAPES = {"meta-llama/Llama-3.1-8B": "llama3_1_8b"}
_SMOLLM2 = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    **{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536},
    **{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    **{"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
}


@dataclasses.dataclass(frozen=True)
class Command:
    where: str
    config: str
    overrides: tuple[tuple[str, str], ...]
    segments: int | None
    topology: str
    gib: float | None  # that the docs say it needs

    def __str__(self) -> str:
        return f"{self.where}:{self.topology}"


def of_docs() -> list[Command]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL):
            found += of_block(path.name, block)
    return found


def of_block(where: str, block: str) -> list[Command]:
    """Each command has a comment above it that names its hardware, or names a topology."""
    found: list[Command] = []
    hardware, variables = None, dict[str, str]()

    def value(name: re.Match[str]) -> str:
        return variables.get(name[1], name[0])

    for line in block.replace("\\\n", "").splitlines():
        hardware = line if line.startswith("#") else hardware
        line = re.sub(r"\$(\w+)", value, line)
        words = shlex.split(line, comments=True)
        if words and all(re.match(r"\w+=", word) for word in words):
            variables |= dict(word.split("=", 1) for word in words)
        elif words and _FOR_GPUS.search(line):
            found.append(of_line(where, words, hardware))
            hardware = None  # of that one alone
    return found


def of_line(where: str, words: list[str], hardware: str | None) -> Command:
    given = dict(re.findall(r"^--([\w.\[\]]+)=(.*)$", "\n".join(words), re.MULTILINE))
    named, gib = given.get("topology"), None
    if named is None:
        said = _HARDWARE.search(hardware or "")
        assert said, f"{where}: {shlex.join(words)}: no comment above it names its GPUs"
        named = f"{said[2].lower()}:{said[1].replace('one', '1')}"
        gib = float(said[3]) if said[3] else None
    overrides = tuple((k[7:], v) for k, v in given.items() if k.startswith("config."))
    segments = given.get("synthetic_segments")
    name = given.get("save") or given.get("config.model.source") or given["config"]
    return Command(
        f"{where}:{Path(name).stem}",
        given["config"],
        overrides,
        int(segments) if segments else None,
        named,
        gib,
    )


def of_configs() -> list[Command]:
    found = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        card = path.read_text().split('"""')[1]
        if said := _ANY_GPUS.search(card):
            segments = re.search(r"--synthetic_segments=(\d+)", card)
            named = f"{_BY_GB[said[2]]}:{said[1].replace('one', '1')}"
            rows = int(segments[1]) if segments else None
            found.append(Command(path.name, f"configs/{path.name}", (), rows, named, None))
    return found


COMMANDS = [*of_docs(), *of_configs()]


@pytest.fixture(autouse=True)
def the_share_of_train(monkeypatch):
    """Which tests don't take."""
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)


@pytest.fixture
def described(tmp_path):
    """A command's config, the settings of its model, and what its rows are like."""

    def of(command: Command):
        config = config_file.load(str(ROOT / command.config))
        for field, text in command.overrides:
            config = flags.override(config, field, text)
        source = ROOT / "configs/bench_models" / _SHAPES.get(config.model.source, "none")
        if config.model.source.startswith("HuggingFaceTB/SmolLM2-135M"):
            source = tmp_path
            (tmp_path / "config.json").write_text(json.dumps(_SMOLLM2))
        elif not source.exists():
            source = ROOT / config.model.source
        model = open_pretrained(source, weights=False).settings
        segments = command.segments or 1
        rows = BatchLoad(
            tokens=1.0,
            supervised=1.0,
            segment_length=config.data.sequence_length / segments,
            max_segments=max(2, segments) if command.segments else None,
        )
        return config, model, rows

    return of


def least_gib(config: Config, model: DecoderSettings, where: Topology, rows: BatchLoad) -> float:
    """On each device, with the policy that needs least."""
    sizes = mesh_lib.fill(config.mesh, where.num_devices)
    config = dataclasses.replace(
        config,
        mesh=dataclasses.replace(config.mesh, **sizes),
        model=dataclasses.replace(config.model, remat=candidates(config.model.remat)[-1]),
    )
    guess = sizing.guesser(config, model, where, rows).guess(config)
    return (guess.state_bytes + guess.kept_bytes) / 2**30


def test_the_commands_are_found():
    """Those of the page, and the configs that say they are for a GPU."""
    found = [str(one) for one in COMMANDS]
    assert sum("performance.md" in one for one in found) >= 5
    assert {"bench_gpu.py:h100:1", "llama3_8b.py:h100:8", "smollm2_135m.py:a100:1"} <= set(found)
    line = "python tools/bench.py --config=configs/bench_gpu.py\n"
    assert of_block("new.md", f"# one H100, 3.5 GiB\n{line}")[0].gib == 3.5
    for block in (line, f"# one H100, 3.5 GiB\n{line}{line}"):
        with pytest.raises(AssertionError, match="no comment above it names its GPUs"):
            of_block("new.md", block)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_for_a_gpu_that_holds_it(command, described):
    """By arithmetic, which gives what no program needs less than; and by what the docs say."""
    config, model, rows = described(command)
    where = without_compiler(command.topology)
    assert where.chip is not None
    limit = where.chip.memory_bytes / 2**30
    least = least_gib(config, model, where, rows)
    assert least <= (command.gib or limit) <= limit
    if "performance.md" in command.where:
        assert command.gib is not None, "its comment says what it needs"


def test_a_command_for_a_gpu_that_is_too_small_is_found(described):
    (command,) = of_block(
        "new.md",
        "# one H100\npython tools/bench.py --config=configs/bench_gpu.py"
        " --config.model.source=configs/bench_models/llama3_1_8b",
    )
    where = without_compiler(command.topology)
    config, model, rows = described(command)
    assert where.chip is not None
    assert least_gib(config, model, where, rows) > where.chip.memory_bytes / 2**30


def without_compiler(name: str) -> Topology:
    kind, _, count = name.partition(":")
    return Topology(name, list(range(int(count))), topology.gpu_chip(kind), 1)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_needs_what_the_docs_say(command, described):
    """By XLA's compiler for GPUs, where jax's plugin for CUDA is installed: minutes for each."""
    try:
        where = topology.open_topology(command.topology)
    except ConfigError as error:
        pytest.skip(str(error))
    config, model, rows = described(command)
    made = estimate.make(config, model, where, rows)
    assert made.memory.fits
    if command.gib is not None:
        assert made.memory.needed_bytes / 2**30 == pytest.approx(command.gib, rel=0.03)
