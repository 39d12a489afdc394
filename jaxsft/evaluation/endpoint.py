"""A model behind an OpenAI-compatible URL: asked over https, again where a failure may pass, and
with a key that nobody else sees."""

import dataclasses
import email.message
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import IO, Any

from jaxsft.errors import ConfigError
from jaxsft.terminal.redact import HIDDEN, redacted

_MOST_BYTES = 1 << 23  # of a reply
_LONGEST_WAIT = 30.0  # seconds before a question is asked again
_MAY_PASS = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses


class EndpointError(Exception):
    """There is no reply: says why, without the key."""


class RefusedError(EndpointError):
    """The server does not want this question; `status` is that of HTTP."""

    def __init__(self, status: int, said: str):
        super().__init__(status, said)  # both, so that it can be sent between processes
        self.status = status

    def __str__(self) -> str:
        return self.args[1]


class AwayError(EndpointError):
    """Nobody answers, however often it is tried."""


class NoCompletionError(EndpointError):
    """What came back is no chat completion."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """
    Attributes:
        url: of its chat completions.
        key: None: it wants none.
        timeout_seconds: for a reply.
        retries: after a failure that may pass.
    """

    url: str
    key: str | None
    timeout_seconds: float
    retries: int

    def completed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply, whose first choice is an object with a `message`, which is an object.

        Raises:
            EndpointError: there is none.
        """
        try:
            return _completion(self._asked(json.dumps(body).encode()))
        except EndpointError as error:  # a server may repeat the key that it refuses
            said = str(error) if self.key is None else str(error).replace(self.key, HIDDEN)
            said = redacted(said)
            if isinstance(error, RefusedError):
                raise RefusedError(error.status, said) from None
            raise type(error)(said) from None

    def _asked(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "jaxsft"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        why = ""
        for attempt in range(self.retries + 1):
            request = urllib.request.Request(self.url, data, headers, method="POST")
            try:
                return _opened(request, self.timeout_seconds)
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code} {_begin(error)}"
                wait = _seconds(error.headers.get("Retry-After"), 2.0**attempt)
                if error.code not in _MAY_PASS:
                    raise RefusedError(error.code, why) from None
            except (OSError, http.client.HTTPException) as error:
                why, wait = f"{type(error).__name__}: {error}", 2.0**attempt
            if attempt < self.retries:
                time.sleep(min(wait, _LONGEST_WAIT))
        raise AwayError(why)


def endpoint_of(
    url: str, key: str | None, timeout_seconds: float, retries: int, where: str
) -> Endpoint:
    """
    Args:
        url: up to /v1.
        where: the field or flag that names it.

    Raises:
        ConfigError: the URL is none, or would show the key.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urllib.parse.urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"{where}={url}: expected a URL such as https://host/v1")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{where}={url}: holds a secret; name its variable in key_variable")
    if key is not None and parts.scheme == "http" and host not in _THIS_MACHINE:
        raise ConfigError(f"{where}={url}: would send the key unencrypted; use https")
    return Endpoint(url.rstrip("/") + "/chat/completions", key, timeout_seconds, retries)


_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def key_in(variable: str | None, where: str) -> str | None:
    """The key in a variable of the environment; None: none is named.

    Raises:
        ConfigError: there is no key.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{where}={variable}: the environment has no key under this name")
    return key


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another host must not be sent the key."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: email.message.Message,
        newurl: str,
    ) -> None:
        return None


def _opened(request: urllib.request.Request, seconds: float) -> bytes:
    """The whole reply, within so many seconds: a socket's own limit begins again at each byte."""
    until = time.monotonic() + seconds
    read = b""
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(request, timeout=seconds) as response:
        while part := response.read1(1 << 16):
            read += part
            if len(read) > _MOST_BYTES:
                raise OSError(f"the reply is longer than {_MOST_BYTES} bytes")
            if time.monotonic() > until:
                raise TimeoutError(f"the reply took more than {seconds:g} s")
    return read


def _completion(read: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(read)
        if isinstance(reply["choices"][0]["message"], dict):
            return reply
    except (ValueError, RecursionError, LookupError, TypeError):
        pass
    raise NoCompletionError(f"reply is no chat completion: {read[:80]!r}")


def _begin(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(200).decode(errors="replace").replace("\n", " ")
    except (OSError, http.client.HTTPException):
        return ""


def _seconds(said: str | None, otherwise: float) -> float:
    return float(said) if said is not None and said.isascii() and said.isdigit() else otherwise
