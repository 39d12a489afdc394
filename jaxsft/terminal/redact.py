"""Text as it may be written down: with neither passwords, nor tokens, nor what signs a URL.

Every sink uses it, not those who raise or say something: error lines, error.json, reports, the
console, config.json. So a message may name a URL as it is. No flag and no field takes a secret: it
comes from the environment, and what that calls one is hidden whatever it looks like.
"""

import functools
import os
import re
from typing import Any

HIDDEN = "***"

# user:password@host of any URL, and user@host: a token is often the user. Up to the last @ before
# the path, for a password may hold one. A path made of a URL has one slash of its two. What would
# be looked for again from each place in a long text has a longest length.
_USER = re.compile(
    r"(?<=://)(?<!abfs://)(?<!abfss://)"
    r"(?:[^/\s?#\"'<>]*@|[^/\s:@\"'<>]+:(?!\d+[/?#])[^\s@\"'<>]{0,500}@(?=[\w.-]+(?:[:/?#\s\"']|$)))"
    r"|(?<=\w:/)(?!/)[^/\s?#\"'<>]*@"
)
# ?name=value: `&amp;`, `\u0026` and `%26` are what stands for an & within HTML, JSON and URLs.
_PARAMETER = re.compile(
    r"([?&;#]|\\u0026|%26|%3[Ff])([\w.$~%\[\]-]{1,100})(=|%3[Dd])"
    r"((?:(?!:\d*:?(?:\s|$))[^&\s\"'<>;,)\]}\\])+)"
)
_SECRET_WORDS = frozenset(
    ("auth", "authorization", "bearer", "credential", "credentials", "hdnea", "hdnts", "hmac")
    + ("jwt", "key", "pass", "policy", "pw", "pwd", "sas", "session", "sig", "signature")
    + ("sign", "signed", "apikey", "accesskey", "accesskeyid", "accessid", "code")
)
_SECRET_ENDINGS = ("password", "passwd", "secret", "token")  # of words such as sslpassword
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# name=value, name: value and {"name": "value"} outside a URL: only names that mean a secret alone.
_ASSIGNED = re.compile(
    r"(?i)((?<!\w)(?:[a-z0-9]+_)*"
    r"(?:access_?key|access_?token|api_?key|auth_?token|hf_token|hub_token|secret|secret_?key|"
    r"session_?token|account_?key|access_?signature|password|passwd)[\"']?\s*[=:]\s*[\"']?)"
    r"((?:(?!:\d*:?(?:\s|$))[^\s\"'&;,)\]}])+)"
)
_BEARER = re.compile(
    r"(?i)\b((?:bearer|basic|authorization[\"']?\s*[=:]\s*[\"']?(?:bearer|basic|token))\s+)"
    r"[\w.~+/-]{8,}=*"
)
# Keys that are known by how they begin: their issuers' documentation.
_KEYS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|hf_oauth_[\w.-]{16,}|api_org_[A-Za-z0-9]{16,}|gh[opsur]_\w{20,}"
    r"|github_pat_\w{20,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}|ya29\.[\w.-]{16,}"
    r"|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}"
    # The length is bounded: a long word would be read again from each eyJ in it.
    r"|eyJ[\w-]{8,1024}+\.eyJ[\w-]{8,8192}+\.[\w-]*)"
)


# Variables of the environment that hold a secret itself; not those that name a file with one.
_VARIABLE = re.compile(
    r"(?i)(?:.*_)?(?:token|api_?key|secret|secret_?key|access_?key|private_?key|password|passwd)"
)
_MIN_LENGTH = 12  # a shorter value may be any word


def redacted(text: str) -> str:
    """The text with *** for each secret that it may hold.

    https://me:pw@host/a.jsonl?X-Amz-Date=1&X-Amz-Signature=ab
    https://***@host/a.jsonl?X-Amz-Date=1&X-Amz-Signature=***
    """
    if given := _of_environment():
        text = given.sub(HIDDEN, text)
    if "@" in text and ":/" in text:
        text = _USER.sub(f"{HIDDEN}@", text)
    if "=" in text or "%3" in text:
        text = _PARAMETER.sub(_without_value, text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    return _KEYS.sub(HIDDEN, text)


def look_at_environment() -> None:
    """Takes the secrets to be those of the environment as it is now."""
    _of_environment.cache_clear()


@functools.cache
def _of_environment() -> re.Pattern[str] | None:
    """What matches the values of secret variables, the longest first; None: there is none."""
    values = {value for name, value in os.environ.items() if _VARIABLE.fullmatch(name)}
    secrets = sorted((v for v in values if len(v) >= _MIN_LENGTH), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, secrets))) if secrets else None


def _without_value(found: re.Match[str]) -> str:
    before, name, equals, value = found.groups()
    words = {word.lower() for word in _WORD.findall(name)} | {name.lower()}
    secret = words & _SECRET_WORDS or any(word.endswith(_SECRET_ENDINGS) for word in words)
    return f"{before}{name}{equals}{HIDDEN if secret else value}"


def redacted_values(value: Any) -> Any:
    """JSON's values with every string redacted, keys too."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {redacted_values(key): redacted_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(item) for item in value]
    return value
