"""The source takes nothing for code that came as data: no pickles, no remote code, no archives."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Modules whose reading runs what a file says, or writes where it says.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
MODULES |= {"tarfile"}
CALLS = {
    *("eval", "exec", "__import__", "torch.load", "os.system", "os.popen", "shutil.unpack_archive"),
    *(
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "pandas.read_pickle",
        "np.lib.format.open",
    ),
}
# Of any object: archives, and jax's profiler, which listens on every address.
METHODS = {"extractall", "ZipFile", "start_server"}
# What a call must not be given, or must be.
FORBIDDEN = {"allow_pickle": False, "shell": False, "trust_remote_code": False}
NEEDED = {"from_pretrained": "trust_remote_code"}


def foreign_code(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        if MODULES & {name.partition(".")[0] for name in names}:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call) and _is_wrong(node):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def _is_wrong(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    for option, only in FORBIDDEN.items():
        value = given.get(option)
        if value is not None and not (isinstance(value, ast.Constant) and value.value is only):
            return True
    last = name.rpartition(".")[2]
    return name in CALLS or last in METHODS or NEEDED.get(last) not in {None, *given}


def test_nothing_in_the_source_runs_what_a_file_says():
    files = sorted((ROOT / "jaxsft").rglob("*.py"))
    assert len(files) > 200
    found = {str(file.relative_to(ROOT)): [*foreign_code(file.read_text())] for file in files}
    assert not {file: lines for file, lines in found.items() if lines}


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from pickle import loads", "def f():\n    import tarfile", "eval('1')"),
        *("np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=given)", "torch.load(f)"),
        *("AutoConfig.from_pretrained(d)", "x.from_pretrained(d, trust_remote_code=True)"),
        *("subprocess.run(c, shell=True)", "yaml.load(text)", "jax.profiler.start_server(9999)"),
        *("__import__(name)", "zipfile.ZipFile(f)", "shutil.unpack_archive(f)"),
    ],
)
def test_each_way_is_found(source):
    assert len([*foreign_code(source)]) == 1


@pytest.mark.parametrize(
    "source",
    [
        *(
            "np.load(f)",
            "np.load(f, allow_pickle=False)",
            "re.compile('a').match(b)",
            "model.eval()",
        ),
        *(
            "x.from_pretrained(d, trust_remote_code=False)",
            "subprocess.run(c)",
            "yaml.safe_load(t)",
        ),
    ],
)
def test_what_runs_nothing_is_not(source):
    assert not [*foreign_code(source)]
