"""The surroundings of every test: 8 CPU devices, no network, caches of this session's own.

Everything is set through the environment, so that jax is imported only by tests that need it and
programs started by a test get the same surroundings.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import checked_imports, programs, quick_compiling

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = os.environ.get("JAXSFT_TEST_PLATFORM", "cpu")  # "cuda": on a GPU; not tried yet
SESSION_DIR = "JAXSFT_TEST_SESSION_DIR"  # set by the first process, inherited by the others
COMPILE_CACHE = "JAXSFT_TEST_COMPILE_CACHE"  # a folder that outlives the session


def _surroundings(session_dir: str) -> dict[str, str]:
    return {
        "JAX_PLATFORMS": PLATFORM,
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get(COMPILE_CACHE, f"{session_dir}/jax"),
        # A size makes jax lock the directory, which processes that run side by side need.
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.15",  # less costs as much to keep
        "XLA_FLAGS": " ".join(
            [
                os.environ.get("XLA_FLAGS", ""),
                "--xla_force_host_platform_device_count=8",
                quick_compiling.XLA_FLAGS,
            ]
        ).strip(),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # two pytest workers share one GPU
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "XDG_CACHE_HOME": f"{session_dir}/cache",
    }


def _make_session_dir() -> str:
    parent = ROOT / ".pytest_cache"
    parent.mkdir(exist_ok=True)
    return tempfile.mkdtemp(prefix="session-", dir=parent)  # mode 0700


OWNS_SESSION_DIR = SESSION_DIR not in os.environ
if OWNS_SESSION_DIR:
    os.environ[SESSION_DIR] = _make_session_dir()
    os.environ.update(_surroundings(os.environ[SESSION_DIR]))
checked_imports.install()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault: what a test injects, as tests/faults.py says it")


def pytest_unconfigure() -> None:
    if OWNS_SESSION_DIR:
        shutil.rmtree(os.environ.pop(SESSION_DIR), ignore_errors=True)


# Files that take minutes. A file runs in one process, so they come first: the short ones that
# follow keep both processes busy up to the end.
LONGEST = ("selfcheck", "distributed", "train", "remote") + (
    *("moe_training", "step", "families", "settings", "smollm2", "inspect"),
)


def _place(item: pytest.Item) -> int:
    name = item.path.stem.removeprefix("test_")
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    if PLATFORM != "cpu":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs JAXSFT_TEST_PLATFORM=cuda"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real tokenizers, models and data sets, which the checkout doesn't contain."""
    folder = Path(os.environ.get("JAXSFT_ASSETS", ROOT.parent / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"no assets in {folder}; JAXSFT_ASSETS names another folder")
    return folder


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """Those of before a test: what it stops here without `programs` ignores them from then on."""
    with programs.signals_given_back():
        yield
