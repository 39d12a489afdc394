"""As much of google-cloud-storage as Orbax asks, whether a bucket has real folders, and as a lock
does: objects that are written in the place of a generation."""

import types

import objects


class Refused(Exception):
    def __init__(self, code: int):
        super().__init__(f"{code}")
        self.code = code


class Client:
    def get_bucket(self, name: str) -> types.SimpleNamespace:
        if not objects.bucket(name).is_dir():
            raise RuntimeError(f"404 GET b/{name}: The specified bucket does not exist.")
        return types.SimpleNamespace(hierarchical_namespace_enabled=False)

    def bucket(self, name: str) -> "Bucket":
        return Bucket(name)


class Bucket:
    def __init__(self, name: str):
        self.name = name

    def blob(self, name: str) -> "Blob":
        return Blob(self.name, name)

    def get_blob(self, name: str) -> "Blob | None":
        found = self.blob(name)
        found.generation = objects.generation(objects.file_of(self.name, name))
        return found if found.generation else None


class Blob:
    def __init__(self, bucket: str, name: str):
        self.bucket, self.name, self.generation = bucket, name, 0

    def download_as_bytes(self, *, if_generation_match: int) -> bytes:
        file = self._file(if_generation_match)
        return file.read_bytes()

    def upload_from_string(self, text: str, kind: str, *, if_generation_match: int) -> None:
        if not objects.write(self.bucket, self.name, text.encode(), if_generation_match):
            raise Refused(412)

    def delete(self, *, if_generation_match: int) -> None:
        self._file(if_generation_match).unlink()

    def _file(self, generation: int):
        file = objects.file_of(self.bucket, self.name)
        now = objects.generation(file)
        if now != generation:
            raise Refused(412 if now else 404)
        return file
