"""A small tokenizer with chat templates, made here."""

import functools

import hypothesis
import pytest

from jaxsft.data.encode.tokenize import ChatTokenizer
from tests.data.chat import REWRITING, make_tokenizer

# A busy machine takes longer than the 200 ms that an example has by default.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> str:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir) -> ChatTokenizer:
    return ChatTokenizer(tokenizer_dir)


@pytest.fixture(scope="session")
def published(assets):
    """A published tokenizer by its name among the assets, opened once: Qwen3's takes seconds."""
    return functools.cache(lambda name: ChatTokenizer(str(assets / "tokenizers" / name)))


@pytest.fixture(scope="session")
def rewriting(tmp_path_factory) -> ChatTokenizer:
    directory = tmp_path_factory.mktemp("rewriting")
    return ChatTokenizer(make_tokenizer(directory, REWRITING))
