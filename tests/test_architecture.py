"""Imports point one way, nothing happens on import, and files and functions stay short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxsft"
MAIN_LOOP = ("jaxsft/loop.py", "train")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MAIN_LOOP_LINES = 400, 60, 100
MAX_ROOT_FILES = 8
MAX_KERNEL_PARAMETERS = 7  # what is static goes into a form

# What each room, and each file of the package's root, may import besides itself.
LOW = {"errors", "files", "terminal"}
CONFIG = LOW | {"config"}
NUMERIC = CONFIG | {"devices", "kernels", "model"}
STEP = NUMERIC | {"convert", "data", "training"}
ALLOWED = {
    "__init__": {"convert", "generation"},
    "errors": set(),
    "files": {"errors"},
    "terminal": {"errors"},
    "config": {"errors"},
    "cli": CONFIG,
    "recipes": {"config", "cli"},
    "data": CONFIG,
    "devices": CONFIG,
    "kernels": {"errors", "devices"},
    "model": {"errors", "devices", "kernels"},
    "convert": LOW | {"devices", "model"},
    "training": STEP - {"training"},
    "rundir": STEP,
    "checks": STEP | {"rundir"},
    "plan": STEP,
    "generation": NUMERIC | {"convert", "data"},
    "evaluation": STEP | {"rundir", "generation"},
    "answering": STEP | {"rundir", "generation", "evaluation"},
    "report": STEP | {"rundir", "evaluation"},
    "loop": STEP | {"rundir", "evaluation"},
    "run": STEP | {"rundir", "evaluation", "loop", "plan", "report"},
    "cli/programs": STEP
    | {"cli", "rundir", "checks", "plan", "generation", "evaluation", "answering", "report", "run"},
    "train": {"cli/programs", "terminal"},
    "__main__": {"cli/programs"},
}
# The parts of the large rooms, each of which may import those before it.
ORDER = {
    "config": "comments data distil loss model lora optim scorers run values"
    " data_rules log_rules rules",
    "data": "conversation read render encode quality cache pack report",
    "kernels": "loss attention experts",
    "convert": "vocabulary families gguf source tensors adapter pretrained new_tokenizer new_tokens"
    " other_rows export api check_export",
}
# Also what a program needs before it knows that its command line is right.
NUMPY_ONLY = {"cli", "config", "data", "errors", "files", "terminal"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
NOT_FOR_THE_LIBRARY = {"tools", "configs", "launch", "tests", "torch", "chex"}
# The one file that may: it compares with torch's results, when the user asks.
TORCH_FILE = "convert/check_export.py"


def files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of each import, function-level ones and `from jaxsft import x` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = file.relative_to(ROOT).parts[: -node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def part_of(module: str) -> tuple[str, str]:
    """("model", "rope") of jaxsft.model.rope; names of jaxsft/__init__.py are of "__init__"."""
    inside = module.removeprefix("jaxsft.cli.programs")
    if inside != module:
        return "cli/programs", inside[1:].partition(".")[0]
    parts = [*module.split(".")[1:], "", ""]
    known = (PACKAGE / parts[0]).is_dir() or (PACKAGE / f"{parts[0]}.py").is_file()
    return (parts[0], parts[1]) if parts[0] and known else ("__init__", "")


def points_back(room: str, part: str, name: str) -> bool:
    target, inner = part_of(name)
    if target != room:
        return target not in ALLOWED[room]
    if room not in ORDER or part == inner or not part:
        return False
    order = ORDER[room].split()
    return order.index(inner) > order.index(part)


def wrong_arrows(source: str, file: Path) -> list[str]:
    room, part = part_of(module_of(file))
    inside = str(file.relative_to(PACKAGE))
    if room not in ALLOWED or part and room in ORDER and part not in ORDER[room].split():
        return [f"{inside}: {room} {part} has no place in ALLOWED or ORDER of {Path(__file__)}"]
    wrong = []
    for line, name in imports(ast.parse(source), file):
        top = name.partition(".")[0]
        if name in ("jaxsft", "jaxsft.__version__"):
            continue
        back = top == "jaxsft" and points_back(room, part, name)
        jax = room in NUMPY_ONLY and top in JAX
        asked_for = top == "torch" and inside == TORCH_FILE
        if back or jax or (top in NOT_FOR_THE_LIBRARY and not asked_for):
            wrong.append(f"jaxsft/{inside}:{line}: {room} must not import {name}")
    return wrong


def two_ways() -> set[tuple[str, ...]]:
    """Pairs of rooms, or of parts of a large room, that import each other."""
    arrows = set()
    for file in files("jaxsft"):
        mine = part_of(module_of(file))
        for _, name in imports(ast.parse(file.read_text()), file):
            if name.startswith("jaxsft."):
                theirs = part_of(name)
                depth = 1 + (mine[0] == theirs[0] and mine[0] in ORDER)
                arrows.add((mine[:depth], theirs[:depth]))
    return {(*a, *b) for a, b in arrows if a != b and (b, a) in arrows}


def import_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run when the module is imported: everything but the bodies of functions."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            outside = [*child.decorator_list, child.args]
        elif isinstance(child, ast.Lambda):
            outside = [child.args]
        elif isinstance(child, ast.If) and "__name__" in ast.unparse(child.test):
            continue  # the program's start
        else:
            yield child
            outside = [child]
        for node in outside:
            yield from import_time_nodes(node)


def import_time_effects(source: str) -> list[str]:
    effects = ("config.update", "environ", "getenv", "jax.devices", "jax.local_devices", "putenv")
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in import_time_nodes(ast.parse(source))
        if isinstance(node, (ast.Attribute, ast.Name)) and ast.unparse(node).endswith(effects)
    ]


def module_cycle() -> list[str]:
    """Files of the package that import each other in a circle; empty when there is none."""
    modules = {module_of(file): file for file in files("jaxsft")}
    arrows: dict[str, set[str]] = {}
    for module, file in modules.items():
        if module == "jaxsft":
            continue
        names = {name for _, name in imports(ast.parse(file.read_text()), file)}
        inside = {n if n in modules else n.rpartition(".")[0] for n in names}
        arrows[module] = {n for n in inside if n in modules and n not in (module, "jaxsft")}
    while leaves := [module for module, targets in arrows.items() if not targets & arrows.keys()]:
        for module in leaves:
            del arrows[module]
    return sorted(arrows)


def test_imports_point_one_way():
    wrong = [w for file in files("jaxsft") for w in wrong_arrows(file.read_text(), file)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_import_goes_in_a_circle():
    assert not module_cycle()
    assert not two_ways()


def test_a_stranger_finds_few_files_at_the_root():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_ROOT_FILES


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("config/run.py", "from jaxsft import devices\n"),
        ("devices/mesh.py", "import jaxsft.model.state\n"),
        ("model/state.py", "def f():\n    from jaxsft.training.step import train_step\n"),
        ("model/rope.py", "from .. import training\n"),
        ("data/pack/packing.py", "import jax.numpy as jnp\n"),
        ("data/read/formats.py", "from jaxsft.data.render.template import ChatTemplate\n"),
        ("data/report/inspect.py", "def f():\n    from jaxsft.convert.source import resolve\n"),
        ("convert/families/rope.py", "from jaxsft.convert.pretrained import open_pretrained\n"),
        ("report/page.py", "from tools import chat\n"),
        ("training/step.py", "import importlib\nimportlib.import_module('jaxsft.train')\n"),
        ("rundir/checkpoint/store.py", "from jaxsft import load_model\n"),
        ("config/run.py", "import torch\n"),
        ("model/rope.py", "import chex\n"),
        ("cli/flags.py", "from jaxsft.cli.programs import train\n"),
        ("cli/flags.py", "from jaxsft.run import run\n"),
        ("run.py", "def f():\n    import jaxsft.cli.programs.plan\n"),
        ("cli/programs/plan.py", "import jaxsft.train\n"),
    ],
)
def test_an_arrow_that_points_back_is_found(file, source):
    assert len(wrong_arrows(source, PACKAGE / file)) == 1


def test_nothing_happens_on_import():
    found = {
        f"{file.relative_to(ROOT)}: {effect}"
        for file in files("jaxsft", "tools", "configs")
        for effect in import_time_effects(file.read_text())
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import jax\njax.config.update('jax_enable_x64', True)\n",
        "import os\nHOME = os.environ['HOME']\n",
        "import os\nif True:\n    X = os.getenv('X')\n",
        "import os\ndef f(home=os.environ):\n    pass\n",
        "import jax\nclass A:\n    devices = jax.devices()\n",
    ],
)
def test_an_effect_on_import_is_found(source):
    assert import_time_effects(source)
    inside = "def f():\n" + "".join(f"    {line}\n" for line in source.splitlines())
    assert not import_time_effects(inside)


def test_files_and_functions_stay_short():
    long = []
    for file in files("jaxsft", "tools", "configs", "tests"):
        source = file.read_text()
        name = file.relative_to(ROOT)
        if len(source.splitlines()) > MAX_FILE_LINES:
            long.append(f"{name}: {len(source.splitlines())} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                main_loop = (str(name), node.name) == MAIN_LOOP
                limit = MAX_MAIN_LOOP_LINES if main_loop else MAX_FUNCTION_LINES
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > limit:
                    long.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n" + "\n".join(long)


def too_many_parameters(source: str) -> list[str]:
    """Functions, inner ones too, that take more than a kernel's signature may."""
    wide = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            takes = node.args
            count = len(takes.posonlyargs + takes.args + takes.kwonlyargs)
            if count > MAX_KERNEL_PARAMETERS:
                wide.append(f"line {node.lineno}: {node.name} takes {count}")
    return wide


def test_signatures_of_kernels_stay_narrow():
    found = {file.name: too_many_parameters(file.read_text()) for file in files("jaxsft/kernels")}
    assert not {name: wide for name, wide in found.items() if wide}
    assert too_many_parameters("def f(a, b, c, d, /, e, f, *, g=0, h=1): pass\n")
    assert not too_many_parameters("def f(a, b, c, d, /, e, f, *, g=0): pass\n")


def test_names_of_test_files_are_unique():
    """pytest takes two files of one name for the same module, but only where it collects both."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}
