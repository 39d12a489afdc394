"""The HTTP interface of the same objects, which TensorStore (in Orbax) speaks to.

Source: cloud.google.com/storage/docs/json_api/v1/objects
"""

import contextlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from fake_gcs import objects


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Its URL, for TENSORSTORE_GCS_HTTP_URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # else each answer waits 40 ms for the acknowledgement of another
    )

    def do_GET(self) -> None:
        bucket, name, query = self._request()
        if not name:
            return self._list(bucket, query)
        file = objects.file_of(bucket, name)
        now = objects.generation(file)
        if not now:
            return self._answer(404)
        if query.get("ifGenerationNotMatch") == str(now):
            return self._answer(304)
        if "ifGenerationMatch" in query and query["ifGenerationMatch"] != str(now):
            return self._answer(412)
        content, status = file.read_bytes(), 200
        headers = {"x-goog-generation": str(now)}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            size = len(content)
            start = int(first) if first else size - int(last)
            stop = min(int(last) + 1, size) if first and last else size
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            content, status = content[start:stop], 206
        self._answer(status, content, headers)

    def do_POST(self) -> None:
        bucket, _, query = self._request()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        expected = query.get("ifGenerationMatch")
        name = query["name"]
        if not objects.write(bucket, name, content, None if expected is None else int(expected)):
            return self._answer(412)
        self._answer(200, json.dumps(_about(bucket, name)).encode())

    def do_DELETE(self) -> None:
        bucket, name, _ = self._request()
        file = objects.file_of(bucket, name)
        found = file.exists()
        file.unlink(missing_ok=True)
        self._answer(204 if found else 404)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        start, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
        prefix = query.get("prefix", "")
        found = [n for n in objects.names(bucket) if n.startswith(prefix) and start <= n < end]
        items = [_about(bucket, name) for name in found]
        self._answer(200, json.dumps({"items": items}).encode())

    def _request(self) -> tuple[str, str, dict[str, str]]:
        parts = urllib.parse.urlsplit(self.path)
        bucket, _, name = parts.path.partition("/b/")[2].partition("/o")
        query = dict(urllib.parse.parse_qsl(parts.query))
        return bucket, urllib.parse.unquote(name.removeprefix("/")), query

    def _answer(
        self, status: int, content: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _about(bucket: str, name: str) -> dict[str, str]:
    file = objects.file_of(bucket, name)
    return {
        "name": name,
        "generation": str(objects.generation(file)),
        "metageneration": "1",
        "size": str(file.stat().st_size),
    }
