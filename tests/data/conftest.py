"""A small tokenizer with chat templates, made here."""

import pytest

from jaxsft.data.encode.tokenize import ChatTokenizer
from tests.data.chat import REWRITING, make_tokenizer


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> str:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir) -> ChatTokenizer:
    return ChatTokenizer(tokenizer_dir)


@pytest.fixture(scope="session")
def rewriting(tmp_path_factory) -> ChatTokenizer:
    directory = tmp_path_factory.mktemp("rewriting")
    return ChatTokenizer(make_tokenizer(directory, REWRITING))
