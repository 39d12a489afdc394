"""No module of model/ but parameter.py reads a weight or multiplies with one.

What an adapter's factors make together is adapter.py's; which a weight has in it, principal.py's.
"""

import ast
from pathlib import Path

import pytest

from jaxsft import model

FILES = sorted(Path(model.__path__[0]).rglob("*.py"))
PRODUCTS = {"einsum", "matmul", "dot", "vdot", "tensordot", "dot_general", "inner", "linear"}
# Added or multiplied elementwise; what a product needs is never among them.
NO_WEIGHTS = ("bias", "scale")


def found(source: str) -> list[str]:
    """Each product, and each parameter that is read though it is no bias and no scale."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        text = ast.unparse(node) if isinstance(node, ast.expr) else ""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            wrong.append(text)
        elif isinstance(node, ast.Attribute) and node.attr in PRODUCTS | {"value", "get_value"}:
            wrong.append(text)
        elif isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "...":
            if not any(word in text for word in NO_WEIGHTS):
                wrong.append(text)
    return wrong


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_weights_are_multiplied_with_in_one_place(file: Path):
    wrong = found(file.read_text())
    if file.name == "parameter.py":
        assert wrong.count("jnp.einsum") == 4 and wrong.count("weight.get_value") == 2
    elif file.name == "adapter.py":
        assert wrong == ["jnp.tensordot"]
    elif file.name == "principal.py":
        assert wrong == ["jnp.matmul"]
    else:
        assert wrong == [], f"{file}: goes round parameter.product"


@pytest.mark.parametrize(
    "source",
    [
        "y = x @ kernel",
        "y = jnp.einsum('BTD,DF->BTF', x, w)",
        "y = jax.lax.dot_general(x, w, dims)",
        "y = x * self.gate_DF[...]",
        "y = x * self.gate_DF.value",
    ],
)
def test_a_product_that_goes_round_it_is_found(source: str):
    assert found(source)
