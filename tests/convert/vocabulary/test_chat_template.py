"""The chat template that a tokenizer's files hold is the one that transformers takes."""

import json

import pytest
import transformers

from jaxsft.convert.vocabulary import chat_template

NAMED = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]


@pytest.mark.parametrize("file", [None, "F\r\n"])
@pytest.mark.parametrize("embedded", [None, "E", NAMED, NAMED[:1]], ids=str)
def test_the_template_in_use_is_that_of_transformers(file, embedded, tmp_path, save_tokenizer):
    save_tokenizer(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": embedded}
    path.write_text(json.dumps(config))
    (tmp_path / chat_template.FILE).unlink()
    if file is not None:
        (tmp_path / chat_template.FILE).write_bytes(file.encode())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template
    if isinstance(theirs, dict):
        theirs = theirs.get("default")
    found = chat_template.used(tmp_path, config)
    assert found == theirs or found.replace("\r\n", "\n") == theirs  # it reads the file as text
    assert (found is None) == (file is None and embedded in (None, NAMED[:1]))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        ("old", ...),
        ("new", "new"),
        (NAMED, [NAMED[0], {"name": "default", "template": "new"}]),
    ],
    ids=str,
)
def test_no_other_template_is_left_in_use(before, after):
    changed = chat_template.without_other({"chat_template": before, "x": 1}, "new")
    assert changed == ({"x": 1} if after is ... else {"chat_template": after, "x": 1})
