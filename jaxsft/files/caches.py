"""Where this user keeps what can be made again, and what to say when it can't be read."""

from pathlib import Path

from jaxsft.errors import DataError
from jaxsft.files import places


def cache_root(cache_dir: str | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir)
    return places.cache_home() / "jaxsft"


def cache_name(cache_dir: str | None) -> str:
    """What chose the cache's place, for messages."""
    if cache_dir is not None:
        return f"config.data.cache_dir={cache_dir}"
    return "the cache (config.data.cache_dir, XDG_CACHE_HOME)"


def unreadable(path: Path, error: Exception) -> DataError:
    """The error of a file of a cache, with what to do.

    Only what is there and wrong, or gone, is mended by making it anew.
    """
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return DataError(
            f"{path}: can't be read ({error}): mend the disk or the permissions and start again, or"
            " name another config.data.cache_dir"
        )
    return DataError(f"{path}: can't be read ({error}); delete {path.parent} to prepare it again")
