"""A digest tells one tokenizer from another, and the options of the data reach the one opened."""

import datetime
import shutil

import pytest

from jaxsft.config import Data
from jaxsft.data.encode import tokenizer_files
from jaxsft.errors import DataError
from tests.data.chat import CHATML, conversation, make_tokenizer

DATED = "{{ strftime_now('%Y-%m-%d') }}" + CHATML


def data(**options):
    return Data(train=(), sequence_length=8, **options)


def test_a_digest_is_of_names_and_bytes_of_what_makes_a_tokenizer(tmp_path):
    first = tmp_path / "first"
    make_tokenizer(first)
    (first / "extra").mkdir()
    (first / "vocab.d").mkdir()  # a folder is no file, whatever it is called
    digest = tokenizer_files.directory_digest(str(first))
    second = shutil.copytree(first, tmp_path / "second")
    (second / "README.md").write_text("not of the tokenizer")
    (second / "model.safetensors").write_bytes(b"nor are weights")
    assert tokenizer_files.directory_digest(str(second)) == digest
    digests = [digest]
    for name, content in (
        ("tokenizer.json", "{}"),
        ("tokenizer.model", "pieces"),
        ("chat_template.jinja", CHATML),
        ("extra/tool_use.jinja", CHATML),
        ("vocab.txt", "a"),
        ("merges.txt", "a b"),
        ("config.json", "{}"),
    ):
        (second / name).write_text(content)
        digests.append(tokenizer_files.directory_digest(str(second)))
    (second / "vocab.txt").rename(second / "vocab.old")
    digests.append(tokenizer_files.directory_digest(str(second)))
    assert len(set(digests)) == len(digests) and {len(each) for each in digests} == {64}


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such tokenizer directory"):
        tokenizer_files.directory_digest(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="absent.jinja: can't be read: No such file"):
        tokenizer_files.file_digest(tmp_path / "absent.jinja")


def test_a_date_is_written_only_where_the_template_asks_for_one(tmp_path):
    plain, dated = tmp_path / "plain", tmp_path / "dated"
    make_tokenizer(plain)
    make_tokenizer(dated, DATED)
    other = tmp_path / "other.jinja"
    other.write_text(DATED)
    day, today = data(template_date="2024-02-29"), datetime.date.today().isoformat()
    written = tokenizer_files.date_written
    assert written(str(plain), day) is None and written(str(dated), day) == "2024-02-29"
    assert (written(str(dated), data()) or "") >= today
    # A template that the data name stands for the tokenizer's own, whatever that asks for.
    named = data(template=str(other), template_date="2024-02-29")
    assert written(str(plain), named) == "2024-02-29"
    other.write_text(CHATML)
    assert written(str(dated), named) is None
    for place in ("more.jinja", "templates/tools.jinja"):
        (plain / "templates").mkdir(exist_ok=True)
        (plain / place).write_text(DATED)
        assert written(str(plain), day) == "2024-02-29"
        (plain / place).unlink()
    (plain / "folder.jinja").mkdir()
    assert written(str(plain), day) is None


def test_the_options_of_the_data_reach_the_tokenizer(tmp_path):
    directory = make_tokenizer(tmp_path / "made")
    path = tmp_path / "other.jinja"
    path.write_text("{{ mood }} " + DATED)
    options = data(
        template=str(path),
        template_options={"mood": "calm"},
        template_date="2024-02-29",
        trusted_control_tokens=("<think>",),
    )
    chat = tokenizer_files.open_tokenizer(directory, options)
    (ours,) = chat.encode(conversation("q", "<think>"))
    assert chat.decode(ours.ids.tolist()).startswith("calm 2024-02-29<|im_start|>")
    assert chat.control_tokens["<think>"] in ours.control_ids
    own = tokenizer_files.open_tokenizer(directory, data())
    (ours,) = own.encode(conversation("q", "<think>"))
    assert own.decode(ours.ids.tolist()).startswith("<|im_start|>user\nq")
    assert own.control_tokens["<think>"] not in ours.control_ids
