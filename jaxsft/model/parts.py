"""Parameters of a model by what they are: the names that people give its parts.

A parameter is known by its dotted path, such as "layers.attention.q_DNH".
"""

import fnmatch
from collections.abc import Callable

from jaxsft.model.vocabulary import EMBEDDING, HEAD


def _is_of_experts(path: list[str]) -> bool:
    return "moe" in path and "shared" not in path and not _is_of_router(path)


def _is_of_router(path: list[str]) -> bool:
    return path[-1].startswith(("router_", "share_"))


# From what a model begins with to what it ends with.
NAMES: dict[str, Callable[[list[str]], bool]] = {
    "embedding": lambda path: path[-1] == EMBEDDING,
    "attention": lambda path: "attention" in path,
    "mlp": lambda path: "mlp" in path or "shared" in path and not _is_of_router(path),
    "experts": _is_of_experts,
    "router": _is_of_router,
    "norms": lambda path: any(part.endswith("norm") for part in path),
    "head": lambda path: path[-1] == HEAD,
}


def matches(pattern: str, path: str) -> bool:
    """Whether a name above, or a pattern of paths with * and ?, means the parameter.

    A pattern may leave out the first parts of the path: "q_*" and "attention.q_*" mean
    "layers.attention.q_DNH".
    """
    if pattern in NAMES:
        return NAMES[pattern](path.split("."))
    return fnmatch.fnmatchcase(f".{path}", f"*.{pattern}")


def name_of(path: str) -> str:
    """The part that a parameter belongs to."""
    return next((name for name, is_of in NAMES.items() if is_of(path.split("."))), "others")
