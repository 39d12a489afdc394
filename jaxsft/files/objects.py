"""One object of a bucket that several processes may write at once: each writes in the place of what
it has read, or not at all.

Source: cloud.google.com/storage/docs/request-preconditions
"""

import importlib
from typing import Any

_MISSING, _OTHER_GENERATION = 404, 412
NONE = 0  # the generation of an object that isn't there


class BucketObject:
    """
    Args:
        url: gs://bucket/name.
    """

    def __init__(self, url: str):
        bucket, _, self._name = url.removeprefix("gs://").partition("/")
        self._bucket: Any = importlib.import_module("google.cloud.storage").Client().bucket(bucket)

    def read(self) -> tuple[str | None, int]:
        """The text, None where there is no object, and its generation."""
        while True:
            found = self._bucket.get_blob(self._name)
            if found is None:
                return None, NONE
            try:
                text = found.download_as_bytes(if_generation_match=found.generation)
            except Exception as error:
                if _code(error) in (_MISSING, _OTHER_GENERATION):
                    continue  # written since
                raise
            return text.decode("utf-8", errors="replace"), int(found.generation)

    def write(self, text: str, generation: int) -> bool:
        """Writes the object where it is of this generation; False: it is of another one."""
        try:
            blob = self._bucket.blob(self._name)
            blob.upload_from_string(text, "application/json", if_generation_match=generation)
        except Exception as error:
            if _code(error) != _OTHER_GENERATION:
                raise
            # Where an answer is lost on the way, the client asks again, and meets its own object.
            return self.read()[0] == text
        return True

    def remove(self, generation: int) -> None:
        """Removes the object, if it is of this generation."""
        try:
            self._bucket.blob(self._name).delete(if_generation_match=generation)
        except Exception as error:
            if _code(error) not in (_MISSING, _OTHER_GENERATION):
                raise


def _code(error: Exception) -> int | None:
    """Of HTTP; of an error that comes from elsewhere None."""
    return getattr(error, "code", None)
