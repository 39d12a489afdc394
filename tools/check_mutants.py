"""Changes one operator, number or condition of a file at a time and runs the file's tests on it.

python tools/check_mutants.py [--files=PART,...] [--sample=120] [--seed=0]

Some test should fail on each changed file, a mutant: a mutant that none fails on survives, and is
printed. The places are drawn at random; everything happens in a copy of the checkout. Needs the
extra [mutation]. Exit 1: more than a tenth survived.
"""

import ast
import collections
import contextlib
import dataclasses
import difflib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from jaxsft.cli import flags as jaxsft_flags

ROOT = Path(__file__).resolve().parent.parent
_FILES = flags.DEFINE_list("files", [], "parts of the names of the files to change; none: all")
_SAMPLE = flags.DEFINE_integer("sample", 120, "mutants to make", 1)
_SEED = flags.DEFINE_integer("seed", 0, "another seed draws others")
_WANTED = 0.9  # share that must be killed
_FAR = re.compile(r"_(Bit\w+|[LR]Shift|Pow|UAdd|Invert)$")

# The files whose faults would be silent, and the tests that alone must notice.
_STEP = ("microbatches", "step", "frozen")
_CHECKPOINTS = (
    "checkpoint",
    *(f"test_{t}.py" for t in ("checkpoint", "lost_checkpoints", "resume")),
)
_ENCODE = {
    "account": ("account", "encode", "truncate"),
    "outcomes": ("encode", "truncate"),
    "prompts": ("prompts", "tokenize", "encode"),
    "spelling": ("spelling", "prompts", "tokenize", "sentencepiece"),
    "tokenize": ("account", "spelling", "tokenize", "encode", "parts", "injection"),
    "tokenizer_files": ("tokenizer_files",),
    "trained_parts": ("parts",),
    "truncate": ("truncate",),
    "word_memory": ("words",),
}
TESTS_OF = {
    "jaxsft/training/step.py": tuple(f"tests/training/test_{name}.py" for name in _STEP),
    "jaxsft/training/loss.py": ("tests/training/test_step.py", "tests/training/test_frozen.py"),
    "jaxsft/kernels/loss/": ("tests/kernels/loss",),
    "jaxsft/kernels/attention/": ("tests/kernels/attention",),
    "jaxsft/kernels/experts/": ("tests/kernels/experts", "tests/model/test_moe.py"),
    "jaxsft/data/pack/": ("tests/data/pack",),
    **{
        f"jaxsft/data/encode/{name}.py": tuple(
            f"tests/data/{'render' if t == 'injection' else 'encode'}/test_{t}.py" for t in tests
        )
        for name, tests in _ENCODE.items()
    },
    "jaxsft/rundir/checkpoint/": tuple(f"tests/rundir/{name}" for name in _CHECKPOINTS),
}


@dataclasses.dataclass(frozen=True, order=True)
class Mutant:
    file: str
    line: int  # from 1
    operator: str
    occurrence: int  # of the operator in the file, from 0

    @property
    def tests(self) -> tuple[str, ...]:
        return next(tests for part, tests in TESTS_OF.items() if self.file.startswith(part))


Place = tuple[str, int, int]  # file, line, column


def main() -> int:
    by_place = {
        place: mutants
        for file in _files()
        if any(part in file for part in _FILES.value or [""])
        for place, mutants in _mutants(file).items()
    }
    if not by_place:
        raise SystemExit(f"--files={','.join(_FILES.value)}: no such file below {list(TESTS_OF)}")
    drawn = _draw(by_place, _SAMPLE.value, _SEED.value)
    print(f"{len(drawn)} of {len(by_place)} places", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        survived = sum(_survives(drawn, Path(folder)))
    killed = len(drawn) - survived
    print(f"{killed} of {len(drawn)} killed, {killed / len(drawn):.1%}")
    return int(killed < _WANTED * len(drawn))


def _draw(by_place: Mapping[Place, Sequence[Mutant]], sample: int, seed: int) -> Sequence[Mutant]:
    """At most one mutant of a place, and `sample` of them; none that means what the file means."""
    draw = random.Random(seed)
    places = draw.sample(sorted(by_place), len(by_place))
    mutants = (draw.choice(by_place[place]) for place in places)
    return sorted(itertools.islice(filter(_differs, mutants), sample))


def _files() -> Iterator[str]:
    for part in TESTS_OF:
        found = [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))
        yield from (str(path.relative_to(ROOT)) for path in found)


def _mutants(file: str) -> Mapping[Place, Sequence[Mutant]]:
    """The mutants of each place of a file that runs."""
    text = (ROOT / file).read_text(encoding="utf-8")
    declared, tree = _declared(text), get_ast(text)
    found = collections.defaultdict(list)
    for name in plugins.operator_names():
        operator_class = plugins.get_operator(name)
        if _is_far(name) or operator_class.arguments():
            continue
        operator = operator_class()
        nodes = ((node, p) for node in ast_nodes(tree) for p in operator.mutation_positions(node))
        for occurrence, (node, (start, _)) in enumerate(nodes):
            if not _is_many(node) and not any(first <= start < last for first, last in declared):
                found[file, *start].append(Mutant(file, start[0], name, occurrence))
    return found


def _is_far(operator: str) -> bool:
    """Whether a mutant of the operator fails wherever it is reached: `+` by `<<`, `==` by `is`."""
    if "Comparison" in operator:
        return len({word in ("Is", "IsNot") for word in operator.split("_")[1:]}) > 1
    return _FAR.search(operator) is not None


def _is_many(node: Any) -> bool:
    """Whether one more or less changes a number by a hundredth at most: it is a bound, a guess or
    an infinity, and not a count."""
    return node.type == "number" and abs(ast.literal_eval(node.value)) >= 100


def _declared(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations, decorators and assertions begin and end: no result depends on them."""
    nodes: list[ast.expr | ast.stmt | ast.keyword] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assert) or (isinstance(node, ast.keyword) and node.arg == "strict"):
            nodes.append(node)  # of our own mistakes; `strict` is an assertion of zip
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            nodes += node.decorator_list
        if isinstance(node, ast.FunctionDef) and node.returns:
            nodes.append(node.returns)
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            nodes.append(node.annotation)
    return [
        # One column before: the @ of a decorator is a part of it.
        ((n.lineno, n.col_offset - 1), (n.end_lineno or 0, n.end_col_offset or 0))
        for n in nodes
    ]


def _differs(mutant: Mutant) -> bool:
    """Whether the mutant is a program, and another one than the file."""
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    try:
        return _meaning(_changed(text, mutant)) != _meaning(text)
    except SyntaxError:
        return False


def _meaning(text: str) -> str:
    """The program without its layout and without what its signatures allow at a call."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults += [default for default in node.kw_defaults if default]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
    return ast.dump(tree)


def _changed(text: str, mutant: Mutant) -> str:
    changed = mutate_code(text, plugins.get_operator(mutant.operator)(), mutant.occurrence)
    assert changed is not None, mutant
    return changed


def _survives(drawn: Sequence[Mutant], folder: Path) -> Iterator[bool]:
    """Tries one mutant after the other in a copy of the checkout, and says what became of it."""
    copy = _copied(folder)
    limits: dict[tuple[str, ...], float] = {}
    for number, mutant in enumerate(drawn, 1):
        if mutant.tests not in limits:
            limits[mutant.tests] = 60 + 3 * _seconds_unchanged(copy, mutant.tests)
        path, text = copy / mutant.file, (copy / mutant.file).read_text(encoding="utf-8")
        changed = _changed(text, mutant)
        path.write_text(changed, encoding="utf-8")
        survived = _pass(copy, mutant.tests, limits[mutant.tests])
        path.write_text(text, encoding="utf-8")
        word = "SURVIVED" if survived else "killed"
        name = mutant.operator.removeprefix("core/")
        print(f"{number}/{len(drawn)} {word} {mutant.file}:{mutant.line} {name}", flush=True)
        if survived:
            lines = difflib.unified_diff(text.splitlines(), changed.splitlines(), n=2, lineterm="")
            print(*list(lines)[2:], sep="\n", flush=True)
        yield survived


def _copied(folder: Path) -> Path:
    """A copy of what git sees, new files too."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if (ROOT / name).is_file():
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "copy" / name)
    return folder / "copy"


def _seconds_unchanged(copy: Path, tests: Sequence[str]) -> float:
    begin = time.monotonic()
    if not _pass(copy, tests, None):
        raise SystemExit(f"the tests fail without a change: {' '.join(tests)}")
    return time.monotonic() - begin


def _pass(copy: Path, tests: Sequence[str], limit: float | None) -> bool:
    """Whether the tests pass; a program that doesn't end within the limit, in seconds, fails."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-n", "0", "-p", "no:cacheprovider"]
    kept = {"JAXSFT_ASSETS": str(ROOT.parent / "shared" / "assets")} | os.environ
    # One cache of compiled programs for all mutants: its keys are the programs themselves.
    env = kept | {"PYTHONPATH": str(copy), "JAXSFT_TEST_COMPILE_CACHE": str(copy.parent / "jax")}
    with subprocess.Popen(
        [*command, *tests],
        cwd=copy,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(limit) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    jaxsft_flags.run_tool(main)
