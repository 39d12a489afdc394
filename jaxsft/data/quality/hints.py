"""What looks odd in a conversation: hints for a reader, never a reason to drop a row.

Every rule is made to be quiet on good data. Each costs a search for a fixed string unless the row
has what it is about, for hints are looked for in every row.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator

from jaxsft.data.conversation import Conversation, Message

VERY_LONG = 32_768  # characters in one message
ENDLESS_WORDS = 20  # from this many words on an answer is expected to have an end
LONGEST_WORD = 40  # characters
EXCERPT = 80  # characters

# An address is looked for from its @ on, and back from there: a pattern that begins with the name
# would try each letter of a long word as its beginning, and read the rest of the word each time.
_EMAIL_HOST = re.compile(r"@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_EMAIL_NAME_BACKWARDS = re.compile(r"[\w.+-]+")
_LONGEST_EMAIL_NAME = 64  # RFC 5321, 4.5.3.1.1
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # +44 20 7946 0958
    r"|\(\d{3,5}\) ?\d{3,4}[ .-]\d{3,4}"  # (020) 7946 0958
    r"|\d{3}([-.])\d{3}\1\d{4}"  # 202-456-1111
    r"|0\d(?: \d{2}){4}"  # 01 23 45 67 89
    r")(?![\w-])"
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\w.,-])[3-6]\d{3}([ -]?)(?:\d{4}\1\d{4}\1\d{1,4}|\d{6}\1\d{5})(?![\w.-])")
_IP = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
_KEY_STARTS = {
    "sk-": r"\bsk-[A-Za-z0-9_-]{20,}",
    "AKIA": r"\bAKIA[0-9A-Z]{16}\b",
    "AIza": r"\bAIza[0-9A-Za-z_-]{35}",
    "ghp_": r"\bghp_[0-9A-Za-z]{36}",
    "hf_": r"\bhf_[A-Za-z]{30,}",
    "xox": r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "PRIVATE KEY": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_KEYS = {start: re.compile(pattern) for start, pattern in _KEY_STARTS.items()}
# UTF-8 read as Latin-1 or Windows-1252: C3 or C2 and another byte, or E2 80 and a third.
_MOJIBAKE = re.compile(r"[ÃÂ][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u2018-\u203a]|â€")
_BROKEN = re.compile(r"[\ufffd\ufeff\x80-\x84\x86-\x9f]")
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r")) + b"\x7f"
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,6}|#x[0-9A-Fa-f]{2,6});")
_ROLE_TEXT = re.compile(
    r"<\|[A-Za-z_]{2,30}\|>|\[/?INST\]|<(?:start|end)_of_turn>|</s>"
    r"|^### (?:Assistant|Human|User|Instruction|Response|System)\b|\n\n(?:Human|Assistant): ",
    re.MULTILINE,
)
_ROLE_STARTS = ("<|", "INST]", "_of_turn>", "</s>", "\n### ", "\n\nHuman: ", "\n\nAssistant: ")
_FOUR_NUMBERS = re.compile(rb"0\.0{1,3}\.0{1,3}\.0")
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_SENTENCE = re.compile(r"[a-z][.!?]\s")
_NO_SPACES = "\u0e00"  # from Thai on, most scripts put none between words
_CUT_AFTER = ",;:([{-–—"
_NOT_PROSE = ("-", "*", "#", "|", ">", "\t", "    ")

Found = Iterator[tuple[str, str]]  # kind, excerpt

KINDS = (
    *("answer equals the question", "answer without end", "card number", "code block without end"),
    *("control character", "e-mail address", "empty answer", "HTML entity", "IBAN", "IP address"),
    *("key or secret", "last message is not the assistant's", "one-word answer", "phone number"),
    *("replacement character or byte order mark", "role or control text in a message"),
    *("very long message", "wrong encoding"),
)


def of_conversation(record: Conversation) -> Found:
    """(kind, excerpt) of each hint, each kind at most once."""
    messages = record.messages
    if messages[-1].role != "assistant":
        yield "last message is not the assistant's", excerpt(messages[-1].content)
    seen: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "assistant" and not message.tool_calls:
            for kind, text in _of_answer(message, messages[index - 1] if index else None):
                if kind not in seen:
                    seen.add(kind)
                    yield kind, text
    yield from of_text("\n".join(["", *(message.content for message in messages)]))
    longest = max((message.content for message in messages), key=len)
    if len(longest) > VERY_LONG:
        yield "very long message", f"{len(longest):,} characters: {excerpt(longest)}"


def _of_answer(answer: Message, before: Message | None) -> Found:
    text = answer.content.strip()
    if not text:
        yield "empty answer", excerpt(before.content) if before else ""
        return
    if len(text) <= LONGEST_WORD and len(text.split(None, 1)) == 1 and max(text) < _NO_SPACES:
        yield "one-word answer", excerpt(text)
    if before is not None and text == before.content.strip():
        yield "answer equals the question", excerpt(text)
    if text.count("```") % 2:
        yield "code block without end", excerpt(text[-EXCERPT:])
    elif has_no_end(text):
        yield "answer without end", excerpt(text[-EXCERPT:])


def has_no_end(text: str) -> bool:
    """Whether prose of some length stops within a sentence.

    That is: its last character is a letter of a script that has upper and lower case, or one after
    which something must come, such as a comma; its last line is a line of prose, not of a list, a
    table or code; and its writer ends sentences elsewhere.
    """
    if not _is_open(text):
        return False
    *before, last = text.splitlines()
    if last.startswith(_NOT_PROSE) or last[:1].isdigit() or len(last.split()) < 8:
        return False
    if before and _is_open(next(filter(None, reversed(before)), "")):
        return False  # lines of a list without marks
    return len(text.split(None, ENDLESS_WORDS)) > ENDLESS_WORDS and bool(_SENTENCE.search(text))


def _is_open(text: str) -> bool:
    last = text[-1:]
    return last in _CUT_AFTER or last.lower() != last.upper()


def of_text(text: str) -> Found:
    """The hints that hold for any text, wherever it stands."""
    raw = text.encode("utf-8", "replace")
    yield from _of_characters(text, raw)
    if any(start in text for start in _ROLE_STARTS):
        yield from _first("role or control text in a message", _ROLE_TEXT, text)
    if "@" in text:
        yield from _first("e-mail address", _emails(text), text, _is_real_email, masked=True)
    digits = raw.translate(_DIGITS_AS_ZERO)
    if b"0.0" in digits and _FOUR_NUMBERS.search(digits):
        yield from _first("IP address", _IP, text, _is_public_ip, masked=True)
    if b"00000000" in digits.translate(None, b" .()-"):
        yield from _first("phone number", _PHONE, text, _has_phone_length, masked=True)
        yield from _first("card number", _CARD, text, _is_card, masked=True)
        yield from _first("IBAN", _IBAN, text, _is_iban, masked=True)
    for start, pattern in _KEYS.items():
        if start in text:
            yield from _first("key or secret", pattern, text, masked=True)


def _of_characters(text: str, raw: bytes) -> Found:
    if len(raw.translate(None, _CONTROL)) != len(raw):
        place = next(i for i, char in enumerate(text) if char < "\x80" and ord(char) in _CONTROL)
        yield "control character", excerpt(repr(text[max(0, place - 30) : place + 30])[1:-1])
    if not text.isascii():
        yield from _first("wrong encoding", _MOJIBAKE, text)
        yield from _first("replacement character or byte order mark", _BROKEN, text)
    if "&" in text:
        yield from _first("HTML entity", _ENTITY, text)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for host in _EMAIL_HOST.finditer(text):
        at = host.start()
        name = _EMAIL_NAME_BACKWARDS.match(text[max(0, at - _LONGEST_EMAIL_NAME) : at][::-1])
        if name:
            yield at - name.end(), host.end()


def _first(
    kind: str,
    found_in: re.Pattern[str] | Iterator[tuple[int, int]],
    text: str,
    holds: Callable[[str], bool] | None = None,
    masked: bool = False,
) -> Found:
    """The first match that holds, with what stands around it; a private one is not repeated."""
    if isinstance(found_in, re.Pattern):
        found_in = (match.span() for match in found_in.finditer(text))
    for start, stop in found_in:
        found = text[start:stop]
        if holds is None or holds(found):
            shown = found[:3] + "…" if masked else found
            around = text[max(0, start - 30) : start], text[stop : stop + 30]
            yield kind, excerpt(around[0] + shown + ("" if masked else around[1]))
            return


def _is_real_email(found: str) -> bool:
    domain = found.rpartition("@")[2].lower()
    return not re.search(r"(?:^|\.)example(?:\.(?:com|org|net))?$", domain)


def _is_public_ip(found: str) -> bool:
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


def _has_phone_length(found: str) -> bool:
    return 9 <= sum(char.isdigit() for char in found) <= 15


def _is_card(found: str) -> bool:
    """Luhn's check, and more than one digit."""
    digits = [int(char) for char in found if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


def _is_iban(found: str) -> bool:
    """The check of ISO 13616: moved, letters as numbers, 1 modulo 97."""
    compact = found.replace(" ", "")
    moved = compact[4:] + compact[:4]
    return 15 <= len(compact) <= 34 and int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def excerpt(text: str) -> str:
    """At most EXCERPT characters on one line."""
    line = " ".join(text[: 2 * EXCERPT].split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"
