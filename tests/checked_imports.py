"""Functions of the rooms with arrays, wrapped by `shapes.checked` as their files are imported.

So all importers get the wrapped ones, and the package itself knows nothing of it. Nothing here
imports jax before one of those files does: a process that only hands out tests never does.
"""

import importlib.machinery
import sys
import types
from typing import Any

# All rooms with arrays, and the part of data that makes batches.
CHECKED = ("kernels", "model", "training", "generation", "evaluation", "data.pack.packing")


def wrap_all(module: types.ModuleType) -> None:
    """Puts checked functions and methods in the place of the module's."""
    import jax

    from tests.shapes import checked

    functions = (types.FunctionType, jax.custom_vjp, type(jax.jit(lambda: None)))
    inside = module.__name__.removeprefix("jaxsft.")
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, functions):
            setattr(module, name, checked(value, f"{inside}.{name}"))
        elif isinstance(value, type):
            for method, function in list(vars(value).items()):
                own = method == "__call__" or not method.startswith("__")
                if own and isinstance(function, types.FunctionType):
                    setattr(value, method, checked(function, f"{inside}.{name}.{method}"))


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        wrap_all(module)


class _Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        room = fullname.removeprefix("jaxsft.")
        if not any(room == one or room.startswith(f"{one}.") for one in CHECKED):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def install() -> None:
    """From now on what is imported is checked; nothing of it may be imported before."""
    early = [name for name in sys.modules if name.startswith("jaxsft.")]
    assert not early, f"imported before their calls could be checked: {early}"
    sys.meta_path.insert(0, _Finder)
