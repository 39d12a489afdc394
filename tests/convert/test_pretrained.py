"""What is said when a model is opened."""

import json

import pytest

from jaxsft.convert import pretrained


@pytest.mark.parametrize("as_list", [False, True])
def test_two_different_templates_are_told(as_list, save_llama, save_tokenizer, edit_json):
    directory, _ = save_llama()
    save_tokenizer(directory)
    same = (directory / "chat_template.jinja").read_text()
    for template, count in ((same, 0), ("{{ 1 }}", 1)):
        named = [{"name": "default", "template": template}, {"name": "x", "template": "y"}]
        value = named if as_list else template
        edit_json(directory / "tokenizer_config.json", chat_template=value)
        notes = pretrained.open_pretrained(directory).notes
        assert sum("chat_template.jinja differs" in note for note in notes) == count
    assert json.loads((directory / "tokenizer_config.json").read_text())["chat_template"] == value
