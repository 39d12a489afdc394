"""Imports point one way, nothing happens on import, and files and functions stay short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxsft"
MAIN_LOOP = ("jaxsft/run.py", "run")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MAIN_LOOP_LINES = 400, 60, 100

# What each part may import, besides itself. A new part of the package gets a line here.
FIRST = {"errors", "places", "advice", "printable", "redact", "signals"}
CONFIG = FIRST | {"config"}
MESH = CONFIG | {"mesh"}
KERNELS = MESH | {"kernels"}
NUMERIC = KERNELS | {"model", "loss", "optim"}
STEP = NUMERIC | {"step"}
AROUND_STEP = STEP | {"convert", "checkpoint", "generate", "metrics", "whole_files"}
RUN = AROUND_STEP | {"data", "distributed", "setup", "program"}
ALLOWED = {
    "__init__": {"convert"},
    "errors": set(),
    "advice": set(),
    "places": FIRST,
    "signals": {"errors"},
    "printable": set(),
    "redact": set(),
    "whole_files": set(),
    "streams": {"redact"},
    "remote": FIRST,
    "workdir": FIRST | {"remote"},
    "config": FIRST,
    "config_file": CONFIG,
    "flags": CONFIG | {"config_file", "streams"},
    "console": CONFIG | {"eta"},
    "eta": set(),
    "data": CONFIG,
    "distributed": CONFIG | {"peers"},
    "peers": FIRST,
    "figures": FIRST,
    "mesh": CONFIG,
    "kernels": MESH,
    "model": NUMERIC,
    "loss": NUMERIC,
    "optim": NUMERIC,
    "step": NUMERIC,
    "convert": AROUND_STEP,
    "checkpoint": AROUND_STEP,
    "generate": AROUND_STEP,
    "chips": set(),
    "xla_flags": set(),
    "compile_cache": FIRST,
    "metrics": AROUND_STEP,
    "flops": {"metrics", "model"},
    "step_log": AROUND_STEP | {"flops"},
    "selfcheck": RUN,
    "bench": RUN | {"chips", "console", "flops", "plan"},
    "plan": RUN | {"chips", "console", "flops", "mesh_fit"},
    "report": {"figures", "metrics", "redact", "whole_files"},
    "endings": FIRST | {"report", "termination", "whole_files", "workdir"},
    "mesh_fit": STEP,
    "program": AROUND_STEP | {"data", "mesh_fit"},
    "preflight": NUMERIC | {"data", "mesh_fit"},
    "setup": AROUND_STEP | {"data", "console", "distributed", "preflight", "program"},
    "trained": RUN | {"workdir"},
    "evaluate": RUN,
    "divergence": FIRST,
    "resume": RUN | {"outputs", "workdir"},
    "termination": FIRST | {"distributed"},
    "outputs": AROUND_STEP | {"console", "distributed", "workdir"},
    "finish": RUN | {"console", "endings", "outputs", "remote", "report", "workdir"},
    "run": RUN
    | {"chips", "compile_cache", "console", "divergence", "endings", "evaluate", "finish"}
    | {"outputs", "plan", "preflight", "resume", "step_log", "termination", "trained", "workdir"},
    "train": CONFIG
    | {"flags", "distributed", "endings", "peers", "plan", "run", "workdir"}
    | {"xla_flags"},
}
# The one file of data that knows jax: it makes device batches.
LOADER = "data/loader.py"
LOADER_ALLOWED = MESH | {"data", "loss", "metrics"}
NUMPY_ONLY = {
    *("data", "errors", "printable", "redact", "config", "flags", "console", "eta", "figures"),
    *("report", "places", "signals", "streams", "whole_files"),
}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
NOT_FOR_THE_LIBRARY = {"tools", "configs", "launch", "tests", "torch"}
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


def part_of(module: str) -> str:
    """`model` for jaxsft.model.rope; a name that jaxsft/__init__.py defines counts as __init__."""
    parts = module.split(".")
    if len(parts) == 1:
        return "__init__"
    known = (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").is_file()
    return parts[1] if known else "__init__"


def wrong_arrows(source: str, file: Path) -> list[str]:
    part = part_of(module_of(file))
    if part not in ALLOWED:
        return [f"{file.relative_to(ROOT)}: {part!r} has no place in ALLOWED of {Path(__file__)}"]
    inside = str(file.relative_to(PACKAGE))
    allowed = LOADER_ALLOWED if inside == LOADER else ALLOWED[part]
    wrong = []
    for line, name in imports(ast.parse(source), file):
        top = name.partition(".")[0]
        if name in ("jaxsft", "jaxsft.__version__"):
            continue
        target = part_of(name) if top == "jaxsft" else top
        back = top == "jaxsft" and target != part and target not in allowed
        jax = part in NUMPY_ONLY and top in JAX and inside != LOADER
        asked_for = top == "torch" and inside == TORCH_FILE
        if back or jax or (top in NOT_FOR_THE_LIBRARY and not asked_for):
            wrong.append(f"jaxsft/{inside}:{line}: {part} must not import {name}")
    return wrong


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


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("config.py", "from jaxsft import mesh\n"),
        ("mesh.py", "import jaxsft.model.state\n"),
        ("loss.py", "def f():\n    from jaxsft.step import train_step\n"),
        ("model/rope.py", "from .. import step\n"),
        ("data/pack.py", "import jax.numpy as jnp\n"),
        ("data/gate/inspect.py", "def f():\n    from jaxsft.convert.source import resolve\n"),
        ("report.py", "from tools import chat\n"),
        ("step.py", "import importlib\nimportlib.import_module('jaxsft.train')\n"),
        ("checkpoint/store.py", "from jaxsft import load_model\n"),
        ("config.py", "import torch\n"),
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
                limit = (
                    MAX_MAIN_LOOP_LINES if str(name) == "jaxsft/train.py" else MAX_FUNCTION_LINES
                )
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > limit:
                    long.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
    assert not long, "\n" + "\n".join(long)
