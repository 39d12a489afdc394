"""Nobody but run_names spells the name of a run's file: a rename would miss it in silence."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxsft.files import run_names
from jaxsft.rundir import workdir

ROOT = Path(__file__).resolve().parents[2]
NAMES = {value for name, value in vars(run_names).items() if name.isupper()}
# The word is a topic of the console or a field too: it is a path only where it is joined to one.
WORDS = {run_names.EXPORT, run_names.EXPORT_MERGED, run_names.CHECKPOINTS}
WORDS |= {run_names.TENSORBOARD, run_names.PROFILE}
# Their config.json is that of a Hugging Face model.
OF_A_MODEL = ("jaxsft/convert/", "jaxsft/data/encode/", "tools/bench/", "tools/fuzzing/")


def spelt(source: str, own: set[str]) -> Iterator[str]:
    """Names that a file spells, as they stand in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in own - WORDS:
            yield f"line {node.lineno}: {node.value}"
        joined = [node.right] if isinstance(node, ast.BinOp) else []
        joined += node.args if isinstance(node, ast.Call) else []
        if isinstance(node, ast.Call) and not ast.unparse(node.func).endswith(("shown", "Path")):
            continue
        for part in joined:
            if isinstance(part, ast.Constant) and part.value in own & WORDS:
                yield f"line {node.lineno}: {part.value}"


def test_names_of_a_run_stand_in_one_place():
    found = []
    for folder in ("jaxsft", "tools"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            own = NAMES - ({run_names.CONFIG} if name.startswith(OF_A_MODEL) else set())
            if name != "jaxsft/files/run_names.py":
                found += [f"{name}: {one}" for one in spelt(file.read_text(), own)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    ['f = workdir / "metrics.jsonl"', 'shown("export")', 'a / "export"', 'b("error.json")'],
)
def test_a_name_that_is_spelt_again_is_found(source):
    assert len(list(spelt(source, NAMES))) == 1


def test_every_file_of_a_run_in_a_bucket_is_brought_back_at_a_start():
    """Else the next copy would put a shorter one in its place."""
    made_anew = {run_names.REPORT, run_names.ERROR, run_names.LOCK}
    directories = {run_names.CHECKPOINTS, run_names.EXPORT, run_names.EXPORT_MERGED}
    directories |= {run_names.TENSORBOARD, run_names.PROFILE}  # each start adds files of its own
    assert set(workdir.WRITTEN_ON_THE_WAY) == NAMES - made_anew - directories


def test_the_names_that_scripts_read_stay():
    assert NAMES == {
        *("config.json", "metrics.jsonl", "samples.jsonl", "data_report.json", "summary.json"),
        *("report.html", "error.json", "lock.json", "checkpoints", "export", "export_merged"),
        *("odd_steps.jsonl", "examples.jsonl", "starts.jsonl"),
        *("command.json", "tensorboard", "wandb.json", "profile"),
    }
