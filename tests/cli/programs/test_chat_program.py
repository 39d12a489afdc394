"""`tools/chat.py` as it is started: what is piped in is answered, what is wrong is said."""

import subprocess
import sys

import adapted
import pytest

import jaxsft
from jaxsft.errors import BAD_CONFIG, BAD_MODEL, DONE
from tests.programs import ROOT

pytestmark = pytest.mark.slow
ASKED = "What is 1 + 1?"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return adapted.debug_base(tmp_path_factory.mktemp("model") / "model")


def chat(text, *flags):
    command = [sys.executable, "tools/chat.py", *flags]
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)


def test_what_is_piped_in_is_answered_once(directory):
    flags = (f"--model={directory}", "--max_new_tokens=12", "--temperature=1.0", "--seed=3")
    done = chat(ASKED, *flags, f"--against={directory}")
    assert done.returncode == DONE, done.stderr
    options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    answer = jaxsft.Chat(directory).answer([{"role": "user", "content": ASKED}], **options)
    names = [str(directory), f"{directory} again"]
    assert done.stdout == "".join(f"{name}:\n{answer}\n\n" for name in names)


@pytest.mark.parametrize(
    ("text", "flags", "code", "said"),
    [
        ("hi", ("--model=/no",), BAD_MODEL, "error: model.source=/no: no such file or directory"),
        ("", ("--model=x",), BAD_CONFIG, "error: standard input: is empty; there is nothing to"),
        ("hi", (), BAD_CONFIG, "--model"),
        ("hi", ("--model=x", "--tools=no.json"), BAD_CONFIG, "error: --tools=no.json: can't be"),
    ],
)
def test_what_is_wrong_is_one_message(text, flags, code, said):
    done = chat(text, *flags)
    assert done.returncode == code and said in done.stderr, done
    assert "Traceback" not in done.stderr and not done.stdout
