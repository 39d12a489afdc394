"""A server of chat completions on this machine, for tests of those who ask one."""

import http.server
import json
import threading
from collections.abc import Callable

Reply = tuple[int, str, dict[str, str]]  # status, body, headers


class Server:
    """Answers as told, one reply after the other, the last for ever; or as a function of the
    request says."""

    def __init__(self, *replies: Reply | Callable[[dict], Reply]):
        self.asked: list[tuple[str, dict[str, str], dict]] = []
        server, left = self, list(replies)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((self.path, dict(self.headers), body))
                reply = left.pop(0) if len(left) > 1 else left[0]
                status, text, headers = reply(body) if callable(reply) else reply
                self.send_response(status)
                length = str(len(text.encode()))
                for name, value in ({"Content-Length": length} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def said(text: object, status: int = 200, **headers: str) -> Reply:
    body = json.dumps({"choices": [{"message": {"content": text}}]})
    return status, body, {name.replace("_", "-"): value for name, value in headers.items()}
