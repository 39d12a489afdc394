"""What fsspec takes for gcsfs: no directories, no appending, listings from a cache."""

import io
from typing import Any

import objects
from fsspec import AbstractFileSystem


class GCSFileSystem(AbstractFileSystem):
    protocol = ("gcs", "gs")

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        found = self._ls_from_cache(path)
        # Of a directory that was never listed, fsspec hands out what its parent's listing has: as
        # in gcsfs, that says nothing of what is in it.
        if found is None or [(one["name"], one["type"]) for one in found] == [(path, "directory")]:
            found = self.dircache[path] = self._list(path)
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [entry["name"] for entry in found]

    def _list(self, path: str) -> list[dict[str, Any]]:
        bucket, _, prefix = path.partition("/")
        entries: dict[str, dict[str, Any]] = {}
        for name in objects.names(bucket):
            if name == prefix:
                size = objects.file_of(bucket, name).stat().st_size
                return [{"name": path, "size": size, "type": "file"}]
            if prefix and not name.startswith(f"{prefix}/"):
                continue
            inside = name[len(prefix) :].lstrip("/")
            child, slash, _rest = inside.partition("/")
            size = 0 if slash else objects.file_of(bucket, name).stat().st_size
            full = f"{path}/{child}"
            kind = "directory" if slash else "file"
            entries[full] = {"name": full, "size": size, "type": kind}
        return list(entries.values())

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        bucket, _slash, name = self._strip_protocol(path).partition("/")
        if mode == "rb":
            return io.BytesIO(objects.file_of(bucket, name).read_bytes())
        if mode != "wb":
            raise NotImplementedError(f"{path}: an object can't be opened with mode {mode!r}")
        self.invalidate_cache()
        return _Written(bucket, name)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        bucket, _slash, name = self._strip_protocol(path).partition("/")
        inside = [n for n in objects.names(bucket) if recursive and n.startswith(f"{name}/")]
        self.invalidate_cache()
        for each in inside or [name]:
            objects.file_of(bucket, each).unlink()

    def rm_file(self, path: str) -> None:
        self.rm(path)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        with self._open(path1) as source, self._open(path2, "wb") as target:
            target.write(source.read())

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        pass

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        pass


class _Written(io.BytesIO):
    """An object that is there once it is closed."""

    def __init__(self, bucket: str, name: str):
        super().__init__()
        self._place = bucket, name

    def close(self) -> None:
        if not self.closed:
            objects.write(*self._place, self.getvalue())
        super().close()
