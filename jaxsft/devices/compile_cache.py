"""Compiled programs kept on disk, so that starting a run again does not compile them again."""

import hashlib
import os
import platform
import stat
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxsft.errors import ConfigError
from jaxsft.files import places

CPU_INFO = Path("/proc/cpuinfo")  # Linux
MAX_BYTES = 4 * 2**30  # with a limit jax also locks the directory, for processes side by side
# Programs that take less to compile are as quickly compiled as read.
MIN_COMPILE_SECONDS = 0.3


def use(root: Path) -> Path:
    """Makes jax keep compiled programs, below `root` or where JAX_COMPILATION_CACHE_DIR says.

    Returns:
        The directory.

    Raises:
        ConfigError: it can't be written; or others may write to it: what lies there is run.
    """
    config: Any = jax.config  # its fields are not declared
    if (chosen := config.jax_compilation_cache_dir) is not None:
        if "://" not in chosen:
            places.make_writable(Path(chosen), f"JAX_COMPILATION_CACHE_DIR={chosen}")
        return Path(chosen)
    directory = root / "compiled" / _machine()
    name = f"{directory}, for compiled programs (XDG_CACHE_HOME, JAX_COMPILATION_CACHE_DIR)"
    with places.using(name, directory):
        directory.mkdir(parents=True, exist_ok=True)
        for path in (directory.parent, directory):
            _make_private(path)
    places.make_writable(directory, name)
    config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_compilation_cache_max_size", MAX_BYTES)
    config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    return directory


def _make_private(directory: Path) -> None:
    found = directory.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise ConfigError(
            f"{directory}: compiled programs are kept there, and it is not a directory of yours;"
            " remove it, or set XDG_CACHE_HOME or JAX_COMPILATION_CACHE_DIR to another place"
        )
    directory.chmod(0o700)


def _machine() -> str:
    """A name for jax's version and this processor's instructions.

    jax's own key leaves the processor out, and a program with instructions that it lacks ends the
    process: home directories are shared between machines.
    """
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    instructions = {line for line in lines if line.startswith(("flags", "Features"))}
    text = "\n".join([platform.machine(), platform.processor(), *sorted(instructions)])
    processor = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"jax-{jax.__version__}-{version('jaxlib')}-{processor}"
