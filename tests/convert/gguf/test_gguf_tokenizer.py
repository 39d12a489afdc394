"""A tokenizer rebuilt from GGUF metadata gives the ids of the one that the file was made from."""

import dataclasses
import inspect
import json
import stat

import pytest

from jaxsft.convert import source
from jaxsft.convert.gguf import splits, vocabulary
from jaxsft.convert.gguf import tokenizer as gguf_tokenizer
from jaxsft.errors import ConversionError
from jaxsft.training import inputs
from tests.training.test_mesh_fit import config

STRINGS = [
    "What is 2+2? It's 1999, not 1990.",
    "  two  spaces\n\n\ttab 你好 🙂 naïve <|im_end|> </s>",
    "<|im_start|>user\nHi<think>hm</think><|im_end|>\n",
    "",
    " ",
    *("x" + " " * n + "y" for n in (2, 3, 7, 16)),
    "a\n \n\r\n\t b\r\x0b\x0c\u00a0\u2003\u3000c\u200b\u200d",
    "3.14159 1,234,567 ٣٤٥ Ⅻ ² 0x7f 1e-10 -5",
    "I'LL we've it’s DON'T 'tis o'clock's 'S 're",
    "你好，世界。こんにちは 안녕하세요 สวัสดี नमस्ते שלום مرحبا",
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽 e\u0301 é ﬁ Å ㍿ \U0001d54f",
    "CamelCase snake_case kebab-case ALLCAPS http://a.b/c?d=e&f=%20#g",
    "def f(x):\n    return {'a': [1, 2.5e3]}  # \t done\n\n\n",
    "<|im_end|><|im_end|> <|im_start|><|im_start|>system\n <s></s><unk>[INST] [/INST]",
    "<|endoftext|>x<tool_call>\n{}\n</tool_call>< |im_end|><0x0A> ▁ Ġ",
    "\x00\x01\x7f\ufeff\ufffd",
]


@pytest.fixture
def tokenizer(save_tokenizer, tmp_path):
    return save_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def metadata(tokenizer):
    """What llama.cpp would write for the tokenizer: control tokens 3, user-defined ones 4."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    added = {entry["id"]: 3 if entry["special"] else 4 for entry in data["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [*tokens, "[PAD]"],
        "tokenizer.ggml.token_type": [added.get(i, 1) for i in range(len(tokens))] + [5],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in data["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def rebuilt(metadata, directory):
    from transformers import AutoTokenizer

    directory.mkdir()
    gguf_tokenizer.write(metadata, directory, "model.gguf")
    return AutoTokenizer.from_pretrained(directory)


def test_ids_template_and_special_tokens_are_the_original_ones(metadata, tokenizer, tmp_path):
    ours = rebuilt(metadata, tmp_path / "rebuilt")
    for text in STRINGS:
        assert ours(text).input_ids == tokenizer(text).input_ids, text
        assert ours.decode(ours(text).input_ids) == text
    assert ours.chat_template == tokenizer.chat_template
    assert (ours.bos_token, ours.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert len(ours) == len(tokenizer)  # the unused [PAD] is no token
    special = {t.content: t.special for t in ours.added_tokens_decoder.values()}
    assert special["<|im_end|>"] and not special["<think>"]


def test_bos_and_eos_are_added_only_where_the_file_says_so(metadata, tokenizer, tmp_path):
    metadata |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    plain = tokenizer("Hi").input_ids
    ours = rebuilt(metadata, tmp_path / "both")
    assert ours("Hi").input_ids == [1, *plain, 2]
    assert ours("Hi", add_special_tokens=False).input_ids == plain
    del metadata["tokenizer.ggml.add_bos_token"], metadata["tokenizer.ggml.add_eos_token"]
    assert rebuilt(metadata, tmp_path / "silent")("Hi").input_ids == plain
    metadata["tokenizer.ggml.pre"] = "llama-bpe"
    assert rebuilt(metadata, tmp_path / "llama")("Hi").input_ids[0] == 1


def test_the_llama3_split_is_that_of_transformers():
    from transformers.convert_slow_tokenizer import TikTokenConverter

    pattern = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
    assert pattern == splits.LLAMA3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model='t5'"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores=None"),
        (
            {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0]},
            r"\d+ tokens but 1 scores",
        ),
        ({"tokenizer.ggml.pre": "tekken"}, "tokenizer.ggml.pre='tekken'"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges=None"),
        ({"tokenizer.ggml.token_type": [1]}, r"\d+ tokens but 1 token types"),
        ({"tokenizer.ggml.eos_token_id": 9999}, "eos_token_id=9999"),
        ({"tokenizer.ggml.eos_token_id": 2.0}, "eos_token_id=2.0, expected int"),
        ({"tokenizer.ggml.pre": ["smollm"]}, "pre=.'smollm'., expected str"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokens=.1, 2., expected an array of str"),
        ({"tokenizer.ggml.merges": ["ab"]}, "merges has 'ab', which is no pair"),
        ({"tokenizer.ggml.add_bos_token": "no"}, "add_bos_token='no', expected bool"),
        ({"tokenizer.chat_template": 3}, "chat_template=3, expected str"),
    ],
)
def test_what_can_not_be_rebuilt_is_named(changes, message, metadata, tmp_path):
    with pytest.raises(ConversionError, match=message):
        gguf_tokenizer.write(metadata | changes, tmp_path, "model.gguf")


def test_the_cache_is_private_written_once_and_named_by_content(
    metadata, save_llama, save_gguf, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = save_llama()[1]
    path = save_gguf(model, metadata=metadata)
    first = source.tokenizer_directory(path)
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    written = (first / "tokenizer.json").stat().st_mtime_ns
    assert source.tokenizer_directory(path) == first
    assert (first / "tokenizer.json").stat().st_mtime_ns == written
    other = save_gguf(model, metadata=metadata | {"tokenizer.chat_template": "{{ 1 }}"})
    second = source.tokenizer_directory(other)
    assert second != first
    assert (second / "chat_template.jinja").read_text() == "{{ 1 }}"
    assert sorted(p.name for p in first.parent.iterdir()) == sorted([first.name, second.name])


@pytest.mark.parametrize("new_tokens", [(), ("<|new|>",)])
def test_a_cache_that_the_config_names_holds_all_of_it(
    new_tokens, metadata, save_llama, save_gguf, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of the user"))
    path = save_gguf(save_llama()[1], metadata=metadata)
    one = config()
    one = dataclasses.replace(
        one,
        model=dataclasses.replace(one.model, source=str(path), new_tokens=new_tokens),
        data=dataclasses.replace(one.data, cache_dir=str(tmp_path / "named"), tokenizer=None),
    )
    found = inputs.tokenizer_directory(one)
    assert found.parent == tmp_path / "named" / "tokenizers"
    assert len(list(found.parent.iterdir())) == 1 + len(new_tokens)
    assert not (tmp_path / "of the user").exists()


PUBLISHED = {"qwen3": "qwen2", "smollm2": "smollm", "stories260k": "default"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_tokenizer_survives_the_way_there_and_back(name, assets, tmp_path):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = assets / ("models" if name == "stories260k" else "tokenizers") / name
    published = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = published.get_vocab_size()
    metadata, notes = vocabulary.metadata(folder, rows + 3, [], None)
    assert metadata["tokenizer.ggml.pre"] == PUBLISHED[name] and not notes
    gguf_tokenizer.write(metadata, tmp_path, "m.gguf")
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.get_vocab() == published.get_vocab()
    lines = (assets / "oasst_en" / "conversations.jsonl").read_text().splitlines()[:150]
    texts = [m["content"] for line in lines for m in json.loads(line)["messages"]] + STRINGS
    for text in texts:
        assert ours.encode(text).ids == published.encode(text).ids, text
    if name != "stories260k":
        rebuilt, base = (AutoTokenizer.from_pretrained(d) for d in (tmp_path, folder))
        assert rebuilt.chat_template == base.chat_template
        assert rebuilt.eos_token == base.eos_token


@pytest.mark.parametrize("name", ["mistral_v1", "mistral_v3"])
def test_a_sentencepiece_model_survives_the_way_there_and_back(name, assets, tmp_path):
    """The ids are those of sentencepiece itself.

    But for runs of spaces: their pieces have equal scores, and a BPE can't prefer the leftmost.
    """
    import sentencepiece
    from tokenizers import Tokenizer

    folder = assets / "tokenizers" / name
    published = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    metadata, _ = vocabulary.metadata(folder, published.get_piece_size(), [], None)
    assert metadata["tokenizer.ggml.model"] == "llama"
    gguf_tokenizer.write(metadata, tmp_path, "m.gguf")
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    lines = (assets / "oasst_en" / "conversations.jsonl").read_text().splitlines()[:150]
    texts = [m["content"] for line in lines for m in json.loads(line)["messages"]]
    texts = [text for text in texts if "  " not in text]
    assert len(texts) > 300
    plain = [text for text in STRINGS if text and "  " not in text and not set("<[") & set(text)]
    assert len(plain) > 5
    for text in [*texts, *plain]:
        wanted = [published.bos_id(), *published.encode(text)]
        assert ours.encode(text).ids == wanted, text
        assert ours.decode(wanted) == published.decode(published.encode(text))


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize(("scheme", "prefix", "told"), [("first", 1, 1), ("always", 1, 0)])
def test_a_space_at_the_start_only_is_told(scheme, prefix, told, tokenizer, edit_json, tmp_path):
    """llama.cpp puts one after each control token too: [INST] hi is [INST] ▁ ▁hi there."""
    edit_json(
        (path := tmp_path / "tokenizer" / "tokenizer.json"),
        pre_tokenizer=METASPACE | {"prepend_scheme": scheme},
        model=json.loads(path.read_text())["model"] | {"byte_fallback": True},
    )
    metadata, notes = vocabulary.metadata(path.parent, 400, [], None)
    assert metadata["tokenizer.ggml.add_space_prefix"] == prefix
    assert ["after each control token" in note for note in notes] == [True] * told


def train_sentencepiece(directory, **options):
    import sentencepiece

    (directory / "text.txt").write_text("a few words of text, and more of them\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "text.txt"),
        model_prefix=str(directory / "tokenizer"),
        minloglevel=2,
        **{"normalization_rule_name": "identity", "model_type": "bpe", "vocab_size": 40, **options},
    )


def test_the_first_space_is_that_of_the_sentencepiece_model(tmp_path, edit_json):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for prefix in (True, False):
        spaces = {"add_dummy_prefix": prefix, "remove_extra_whitespaces": False}
        train_sentencepiece(tmp_path, **spaces)
        metadata, notes = vocabulary.metadata(tmp_path, 40, [], None)
        assert metadata["tokenizer.ggml.add_space_prefix"] is prefix and not notes
    edit_json(tmp_path / "tokenizer_config.json", add_prefix_space=True, legacy=False)
    metadata, (note,) = vocabulary.metadata(tmp_path, 40, [], None)
    assert metadata["tokenizer.ggml.add_space_prefix"] and "after each control token" in note


SPECIAL, PLAIN = ({"special": special, "normalized": False} for special in (True, False))
LLAMA = {"tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "bos_token": "<s>"}
LLAMA |= {"add_bos_token": True}


@pytest.fixture
def pieces(tmp_path):
    """A tokenizer.model of 42 pieces: 3 control ones, 2 user-defined ones, then merges."""
    changes = {"user_defined_symbols": ["<think>", "wor"], "control_symbols": ["<c>"]}
    train_sentencepiece(tmp_path, remove_extra_whitespaces=False, vocab_size=42, **changes)

    def save(added=None, **config):
        if added is not None:
            (tmp_path / "added_tokens.json").write_text(json.dumps(added))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(LLAMA | config))
        return tmp_path

    return save


@pytest.mark.parametrize(
    ("files", "types", "eos"),
    [
        ({"added": {"<|im_end|>": 42, "<x>": 43}, "eos_token": "<|im_end|>"}, [3, 4], 42),
        (
            {
                "added_tokens_decoder": {
                    "42": {"content": "<|im_end|>", **SPECIAL},
                    "43": {"content": "<x>", **PLAIN},
                },
                "eos_token": "<x>",
            },
            [3, 3],
            43,
        ),
        (
            {
                "added": {"<x>": 43, "<|im_end|>": 42},
                "added_tokens_decoder": {"42": {"content": "<|im_end|>", **PLAIN}},
                "extra_special_tokens": {"image_token": "<x>"},
                "eos_token": "</s>",
            },
            [4, 3],
            2,
        ),
    ],
)
def test_added_tokens_of_a_sentencepiece_directory_are_kept(files, types, eos, pieces, tmp_path):
    """Each at its id, of its type, and the tokenizer made of the file gives transformers' ids."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    directory = pieces(**files)
    metadata, _ = vocabulary.metadata(directory, 46, [eos], None)
    tokens, kinds = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    assert tokens[42:] == ["<|im_end|>", "<x>", "[PAD44]", "[PAD45]"]
    assert kinds[:6] == [2, 3, 3, 3, 4, 4] and kinds[42:] == [*types, 5, 5]
    assert set(kinds[6:42]) == {1} and len(metadata["tokenizer.ggml.scores"]) == 46
    assert metadata["tokenizer.ggml.eos_token_id"] == eos
    (tmp_path / "ours").mkdir()
    gguf_tokenizer.write(metadata, tmp_path / "ours", "m.gguf")
    ours = Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(directory)
    for text in ("of<|im_end|>", "a few wor<x><think>", "<c><x>"):  # no text after one
        assert ours.encode(text).ids == theirs(text).input_ids, text


def test_a_piece_that_is_called_special_is_a_control_token(pieces):
    plain = vocabulary.metadata(pieces(), 42, [], None)[0]["tokenizer.ggml.tokens"]
    decoder = {"20": {"content": plain[20], **SPECIAL}, "21": {"content": plain[21], **PLAIN}}
    directory = pieces(added_tokens_decoder=decoder, additional_special_tokens=[plain[22]])
    metadata, _ = vocabulary.metadata(directory, 42, [], None)
    assert metadata["tokenizer.ggml.tokens"] == plain
    assert metadata["tokenizer.ggml.token_type"][19:24] == [1, 3, 4, 3, 1]


def test_tokens_that_only_the_configuration_of_a_tokenizer_json_adds_are_kept(
    tokenizer, edit_json, tmp_path
):
    directory = tmp_path / "tokenizer"
    extra = {str(len(tokenizer)): {"content": "<new>", **PLAIN}}
    edit_json(
        directory / "tokenizer_config.json",
        added_tokens_decoder=extra,
        extra_special_tokens=["<think>"],
    )
    metadata, _ = vocabulary.metadata(directory, len(tokenizer) + 1, [], None)
    tokens, types = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type"))
    assert (tokens[-1], types[-1]) == ("<new>", 4)
    assert types[tokens.index("<think>")] == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added": {"<x>": 45}}, "transformers gives token 42 to '<x>', the files None"),
        (
            {"added_tokens_decoder": {"20": {"content": "<x>", **SPECIAL}}},
            "transformers gives token 42 to '<x>', the files None",
        ),
        ({"added": {"<x>": 42, "<y>": 43, "<z>": 44}}, "has 45 tokens, the model vocab_size=44"),
        ({"added": {"<x>": -1}}, "added_tokens.json: -1 is no token id"),
        ({"added_tokens_decoder": {"a": "<x>"}}, "'a' is no token id"),
        ({"added_tokens_decoder": ["<x>"]}, r"added_tokens_decoder=\['<x>'\] is no object"),
        ({"added_tokens_decoder": {"42": {}}}, "tokenizer_config.json: token 42 is {}, not a te"),
    ],
)
def test_added_tokens_that_do_not_fit_are_named(files, message, pieces):
    with pytest.raises(ConversionError, match=message):
        vocabulary.metadata(pieces(**files), 44, [], None)


def test_a_cut_tokenizer_model_is_named(pieces):
    path = pieces() / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConversionError, match="tokenizer.model: is no sentencepiece model"):
        vocabulary.metadata(path.parent, 42, [], None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove_extra_whitespaces": True}, "makes '▁a▁ﬁ' of .*normalises nothing"),
        ({"normalization_rule_name": "nmt_nfkc"}, "makes '▁a▁▁fi▁' of"),
        ({"model_type": "unigram", "vocab_size": 20}, "is a Unigram model"),
    ],
)
def test_a_sentencepiece_model_that_llama_cpp_does_not_have_is_refused(options, message, tmp_path):
    train_sentencepiece(tmp_path, **{"remove_extra_whitespaces": False, **options})
    with pytest.raises(ConversionError, match=message):
        vocabulary.metadata(tmp_path, 40, [], None)
