"""Every row and token is accounted for, and a cache is used only for the inputs it was made of."""

import dataclasses
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxsft.config import Data, Source
from jaxsft.data.cache import prepare as prepare_module
from jaxsft.data.cache import shards
from jaxsft.data.cache.prepare import prepare, source_names
from jaxsft.data.quality import row_statistics
from jaxsft.errors import DataError
from tests.data.chat import CHATML, REWRITING, make_tokenizer

ROOT = Path(__file__).resolve().parents[3]
SAY = [("q", "a"), ("hello", "world " * 100), ("x", "y")]


def row(*contents, **fields):
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return {"messages": messages, **fields}


@pytest.fixture
def setup(tmp_path, tokenizer_dir):
    """Writes rows to a file and prepares them; keeps one cache folder."""

    class Setup:
        path = tmp_path / "train.jsonl"
        source = Source(path=str(path), format="messages")
        data = Data(train=(), sequence_length=64, cache_dir=str(tmp_path / "cache"))
        tokenizer = tokenizer_dir

        def write(self, *rows):
            lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
            self.path.write_text("".join(line + "\n" for line in lines))

        def prepare(self, **options):
            vocab_size = options.pop("vocab_size", None)
            data = dataclasses.replace(self.data, **options)
            return prepare((self.source,), data, self.tokenizer, vocab_size=vocab_size)

        def caches(self):
            return sorted(p.name for p in (tmp_path / "cache").iterdir())

    return Setup()


def test_the_cache_gives_back_what_the_tokenizer_made(setup, tokenizer):
    setup.write(*[row(*pair) for pair in SAY])
    cache = setup.prepare()
    assert len(cache) == 2 and [cache.source_of(i)[1] for i in (0, 1)] == [1, 3]
    (second, first) = cache.examples([1, 0])
    for (ids, weights), pair in ((first, SAY[0]), (second, SAY[2])):
        text = (
            f"<|im_start|>user\n{pair[0]}<|im_end|>\n<|im_start|>assistant\n{pair[1]}<|im_end|>\n"
        )
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids[weights > 0]) == f"{pair[1]}<|im_end|>"
    assert cache.lengths.tolist() == [len(first[0]), len(second[0])]
    assert cache.manifest.end_of_turn_ids == [tokenizer.eos_id]
    assert cache.manifest.template == CHATML
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.examples([0])[0][0].tolist() == first[0].tolist()


def test_examples_are_found_across_shards(setup, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    setup.write(*[row("q", f"{i}") for i in range(10)])
    cache = setup.prepare()
    assert [size for size, *_ in cache.manifest.shards] == [3, 3, 3, 1]
    order = [9, 0, 4, 3, 9]
    assert [cache.source_of(i)[1] for i in order] == [10, 1, 5, 4, 10]
    one_by_one = [cache.examples([i])[0][0].tolist() for i in order]
    assert [ids.tolist() for ids, _ in cache.examples(order)] == one_by_one


def test_the_report_accounts_for_rows_and_tokens(setup):
    unsupervised = row("q", "a")
    unsupervised["messages"][1]["weight"] = 0
    setup.write(*[row(*pair) for pair in SAY], unsupervised, "{", row("q"))
    report = setup.prepare(bad_rows="skip").report
    assert (report.rows_in, report.rows_out, report.examples) == (6, 2, 2)
    assert report.dropped == {
        "no assistant message": 1,
        "no supervised token": 1,
        "not JSON": 1,
        "overlong: more than sequence_length=64 tokens": 1,
    }
    tokens = report.tokens
    assert tokens.rendered == sum(list(vars(tokens).values())[1:])
    assert tokens.dropped > 64 and tokens.truncated == 0 and tokens.supervised == 4
    assert report.sources["train"].tokens == tokens
    assert [line.split(": ")[0] for line in report.bad_rows] == [
        f"{setup.path}:5",
        f"{setup.path}:6",
    ]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.lists(st.text(alphabet="ab \n<|im_end>", max_size=60), min_size=1, max_size=5),
        min_size=1,
        max_size=6,
    )
)
def test_rows_and_tokens_are_conserved_for_any_file(setup, rows):
    setup.write(row("q", "a"), *[row(*contents) for contents in rows])
    cache = setup.prepare(bad_rows="skip")
    report = cache.report
    assert report.rows_in == len(rows) + 1 == report.rows_out + sum(report.dropped.values())
    assert cache.lengths.sum() == report.tokens.supervised + report.tokens.context
    weights = [w for _, w in cache.examples(range(len(cache)))]
    assert sum(int((w > 0).sum()) for w in weights) == report.tokens.supervised
    assert all(w.any() for w in weights)


def test_split_turns_are_counted_and_a_lost_one_is_not_a_lost_row(setup, tmp_path):
    setup.tokenizer = make_tokenizer(tmp_path / "rewriting", REWRITING)
    talk = row("q", "a", "q2", "b")
    for message in talk["messages"][1::2]:
        message["thinking"] = "hm"
    setup.write(talk)
    whole = setup.prepare().report
    assert (whole.rows_out, whole.examples, whole.split_conversations) == (1, 2, 1)
    (shorter, longer) = setup.prepare().lengths
    cut = setup.prepare(sequence_length=int(longer) - 1).report
    assert (cut.rows_out, cut.examples, cut.dropped) == (1, 1, {})
    assert list(cut.dropped_examples.values()) == [1]
    assert cut.tokens.dropped == longer and cut.tokens.rendered == shorter + longer


def test_length_l_is_kept_and_l_plus_one_dropped(setup):
    """M12."""
    setup.write(row("q", "a"), row("q", "aaaa"))
    lengths = setup.prepare().lengths
    kept = setup.prepare(sequence_length=int(lengths.max()))
    assert kept.report.examples == 2
    cut = setup.prepare(sequence_length=int(lengths.max()) - 1)
    assert cut.report.examples == 1
    (ids, weights) = cut.examples([0])[0]
    assert weights[ids == cut.manifest.end_of_turn_ids[0]].sum() == 1


def test_bad_rows_are_listed_by_cause_up_to_the_limit(setup):
    setup.write(row("q", "a"), *["{" for _ in range(5)])
    with pytest.raises(DataError, match="train.jsonl:2: is not JSON") as raised:
        setup.prepare(max_bad_rows=3)
    lines = str(raised.value).split("\n")
    assert lines[1] == f"  and 4 more rows (not JSON): {setup.path}:3, 4, ..."
    assert lines[2] == "5 of 6 rows can't be used"
    with pytest.raises(DataError, match="skip' allows max_bad_rows=3"):
        setup.prepare(max_bad_rows=3, bad_rows="skip")
    assert setup.prepare(max_bad_rows=5, bad_rows="skip").report.dropped == {"not JSON": 5}
    assert len(setup.caches()) == 1  # the failures left nothing behind


def test_overlong_rows_can_be_errors(setup):
    setup.write(*[row(*pair) for pair in SAY])
    with pytest.raises(
        DataError, match=r"train.jsonl:2: overlong: \d+ tokens > sequence_length=64"
    ):
        setup.prepare(overlong="error", bad_rows="skip")


def test_a_template_error_is_a_bad_row(setup, tmp_path):
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% if messages[0].role == messages[1].role %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}" + CHATML
    )
    two_users = row("q", "a")
    two_users["messages"].insert(0, {"role": "user", "content": "q"})
    setup.write(row("q", "a"), two_users)
    with pytest.raises(DataError, match="train.jsonl:2: template .* refused: roles must alternate"):
        setup.prepare(template=str(template))
    setup.prepare()


def test_control_tokens_that_a_chosen_template_has_but_not_the_tokenizer_are_reported(
    setup, tmp_path
):
    template = tmp_path / "other.jinja"
    template.write_text(CHATML + "{% if tools %}<|tool|><think>{{ tools }}<|tool|>{% endif %}")
    setup.write(row("q", "a"))
    assert setup.prepare().report.unknown_controls == []
    report = setup.prepare(template=str(template)).report
    assert report.unknown_controls == ["<|tool|>"]


def test_an_id_outside_the_model_is_a_bad_row(setup):
    setup.write(row("q", "a"))
    with pytest.raises(DataError, match="train.jsonl:1: token .* vocab_size=10"):
        setup.prepare(vocab_size=10)


def test_no_example_at_all_is_an_error(setup):
    setup.write(row(*SAY[1]))
    with pytest.raises(DataError, match="none of 1 rows gives an example: {'overlong"):
        setup.prepare()


def test_files_that_are_not_there_are_named(setup, tmp_path):
    with pytest.raises(DataError, match="train.jsonl: no such file"):
        setup.prepare()
    setup.write(row("q", "a"))
    with pytest.raises(DataError, match="gone.jinja: can't be read"):
        setup.prepare(template=str(tmp_path / "gone.jinja"))
    setup.tokenizer = str(tmp_path / "gone")
    with pytest.raises(DataError, match="gone: no such tokenizer directory"):
        setup.prepare()


CHANGES = {
    "a byte of the data": lambda s: (s.write(row("q", "b")), {}),
    "sequence_length": lambda s: (None, {"sequence_length": 63}),
    "train_on": lambda s: (None, {"train_on": "last_turn"}),
    "overlong": lambda s: (None, {"overlong": "error"}),
    "bad_rows": lambda s: (None, {"bad_rows": "skip"}),
    "vocab_size": lambda s: (None, {"vocab_size": 5000}),
    "train_parts": lambda s: (None, {"train_parts": ("content",)}),
    "trusted_control_tokens": lambda s: (None, {"trusted_control_tokens": ("<think>",)}),
    "max_bad_rows": lambda s: (None, {"max_bad_rows": 19}),
    "another template": lambda s: (None, {"template": None}),
    "a byte of the template": lambda s: (s.template.write_text(CHATML + "{#-#}"), {}),
    "tokenizer": lambda s: (s.copy_tokenizer(), {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_a_miss(setup, change):
    """D3."""

    def copy_tokenizer():
        setup.tokenizer = shutil.copytree(setup.tokenizer, setup.path.parent / "copy")
        path = Path(setup.tokenizer) / "tokenizer_config.json"
        path.write_text(path.read_text() + " ")

    setup.copy_tokenizer = copy_tokenizer
    setup.template = setup.path.parent / "t.jinja"
    setup.template.write_text(CHATML + "{# #}")
    setup.write(row("q", "a"))
    given = {"template": str(setup.template)}
    first = setup.prepare(**given)
    assert setup.prepare(**given).fingerprint == first.fingerprint
    _, options = CHANGES[change](setup)
    assert setup.prepare(**(given | options)).fingerprint != first.fingerprint
    assert len(setup.caches()) == 2


@pytest.mark.parametrize("change", [{"workers": 2}, {"template_date": "2026-01-31"}], ids=str)
def test_what_decides_nothing_is_a_hit(setup, change):
    """The template writes no date."""
    setup.write(row("q", "a"))
    assert setup.prepare().fingerprint == setup.prepare(**change).fingerprint
    assert len(setup.caches()) == 1


def test_a_date_that_the_template_writes_is_a_miss(setup, tmp_path):
    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}" + CHATML)
    setup.write(row("q", "a"))
    days = [
        setup.prepare(template=str(template), template_date=day)
        for day in ("2026-01-31", "2026-02-01")
    ]
    assert days[0].fingerprint != days[1].fingerprint
    assert days[0].examples([0])[0][0].tolist() != days[1].examples([0])[0][0].tolist()


def test_the_code_is_part_of_the_fingerprint(setup, monkeypatch):
    setup.write(row("q", "a"))
    first = setup.prepare()
    monkeypatch.setattr(prepare_module, "_CODE", prepare_module._CODE[1:])
    assert setup.prepare().fingerprint != first.fingerprint


HIT = """
import sys
from jaxsft.config import Data, Source
from jaxsft.data.cache.prepare import prepare
path, cache_dir, tokenizer = sys.argv[1:]
data = Data(train=(), sequence_length=64, cache_dir=cache_dir)
cache = prepare((Source(path=path, format="messages"),), data, tokenizer)
print(cache.fingerprint, len(cache.examples([0])[0][0]), "transformers" in sys.modules)
"""


def test_another_process_finds_the_cache_without_importing_transformers(setup, tmp_path):
    """D3."""
    setup.write(row("q", "a"))
    cache = setup.prepare()
    arguments = [str(setup.path), str(tmp_path / "cache"), setup.tokenizer]
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HIT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [cache.fingerprint, str(cache.lengths[0]), "False"]
    assert len(setup.caches()) == 1


def test_two_that_prepare_at_once_both_succeed(setup):
    setup.write(row("q", "a"))

    def make_while_another_does(work, progress):
        setup.prepare()
        prepare_module.make_here(work, progress)

    arguments = (setup.source,), setup.data, setup.tokenizer
    assert len(prepare(*arguments, make=make_while_another_does)) == 1
    assert len(setup.caches()) == 1


def test_a_half_written_cache_is_not_used(setup):
    setup.write(row("q", "a"))
    cache = setup.prepare()
    (cache.directory / "lengths.npy").write_bytes(b"")
    np.save(cache.directory / "lengths.npy", np.array([1, 2]))
    with pytest.raises(DataError, match="2 lengths but 1 examples; delete the directory"):
        setup.prepare()
    (cache.directory / "report.json").write_text("{")
    with pytest.raises(DataError, match=r"report.json: can't be read .*; delete"):
        setup.prepare()


def test_a_cache_on_a_disk_that_fails_is_not_to_be_deleted(setup, monkeypatch):
    setup.write(row("q", "a"))
    cache = setup.prepare()

    def fail(path, *_, **__):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr("jaxsft.data.cache.store.np.load", fail)
    with pytest.raises(DataError, match="lengths.npy: can't be read .*: mend the disk") as error:
        setup.prepare()
    assert "delete" not in str(error.value)
    with pytest.raises(DataError, match="facts.npz: can't be read .*: mend the disk") as error:
        row_statistics.load(cache.directory)
    assert "delete" not in str(error.value)


def test_sources_keep_their_names_and_files(setup, tmp_path):
    setup.write(row("q", "a"))
    other = tmp_path / "b" / "train.jsonl"
    other.parent.mkdir()
    other.write_text(json.dumps({"text": "hello world"}) + "\n")
    sources = (setup.source, Source(path=str(other)), Source(path=str(other), name="plain"))
    assert source_names(sources) == ["train", "train#2", "plain"]
    cache = prepare(sources, setup.data, setup.tokenizer)
    assert [cache.source_of(i) for i in range(3)] == [
        (str(setup.path), 1),
        (str(other), 1),
        (str(other), 1),
    ]
    assert list(cache.report.sources) == ["train", "train#2", "plain"]
    assert cache.report.rows_in == 3


def test_the_default_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert prepare_module.cache_root(None) == tmp_path / "jaxsft"
    assert prepare_module.cache_root("here") == Path("here")


def test_progress_counts_rows(setup, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    setup.write(*[row("q", "a")] * 5)
    seen = []
    prepare((setup.source,), setup.data, setup.tokenizer, progress=seen.append)
    assert seen == [2, 4, 5]
