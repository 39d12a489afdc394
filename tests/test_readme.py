"""A stranger goes from the README to the training step and has read what it does."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FILES, MAX_LINES = 5, 600
CALL = "state, metrics = train_step(state, batch)"
# What a step does, by the function that does it.
FUNCTIONS = {
    "step": "train_step",
    "loss": "loss_sums",
    "cross-entropy": "cross_entropy",
    "gradient": "gradient_sums",
    "update": "updated",
    "optimizer": "adamw",
    "guard": "guard",
}


def test_the_step_is_read_in_few_files_and_lines():
    readme = (ROOT / "README.md").read_text()
    listed = re.findall(r"^\d\. `(jaxsft/[\w/]+\.py)`", readme, re.MULTILINE)
    sources = [(ROOT / name).read_text() for name in listed]
    num_lines = sum(len(source.splitlines()) for source in sources)
    assert 0 < len(listed) <= MAX_FILES
    assert num_lines <= MAX_LINES, f"{num_lines} lines in {listed}"
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    missing = {what: name for what, name in FUNCTIONS.items() if name not in defined}
    assert not missing
    assert ast.dump(ast.parse(CALL).body[0]) in map(ast.dump, nodes)
