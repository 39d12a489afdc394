"""Facts about rows: what counts as the same, as alike and as odd, and that grouping changes
nothing."""

import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxsft.config import Source
from jaxsft.data.conversation import BadRow, Conversation, Message, PlainText, Tokenized
from jaxsft.data.encode.account import Outcome
from jaxsft.data.encode.tokenize import Example
from jaxsft.data.quality import measures, near_duplicates
from jaxsft.data.quality import row_statistics as facts_lib
from jaxsft.data.quality.figures import Bin, HintedRows, RowPair
from jaxsft.data.read.sources import read_source
from jaxsft.errors import DataError

ROOT = Path(__file__).resolve().parents[3]
WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in ("n", "rs", "lt", "x")]


def talk(*contents: str, row: int = 1, file: str = "a.jsonl", system: str | None = None):
    roles = ("user", "assistant") * len(contents)
    said = [Message(role, text) for role, text in zip(roles, contents, strict=False)]
    return Conversation((*([Message("system", system)] if system else []), *said), None, file, row)


def example_of(record, num_tokens: int = 4, num_supervised: int = 1) -> Example:
    weights = np.zeros(num_tokens, np.float32)
    weights[num_tokens - num_supervised :] = 1
    return Example(np.arange(num_tokens, dtype=np.int32), weights, record.file, record.row, ())


def kept(record) -> Outcome:
    return Outcome(record.file, record.row, (example_of(record),))


def facts_of(*records) -> facts_lib.Facts:
    return facts_lib.shard_facts(records, [kept(record) for record in records])


def sentence(rng: random.Random, num_words: int = 60) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words)) + "."


def edited(rng: random.Random, text: str, num_edits: int) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), num_edits):
        words[place] = f"zebra{rng.randrange(999)}"
    return " ".join(words)


def many(num_rows: int, seed: int = 0) -> list[Conversation]:
    """Rows with duplicates, twins, hints and repeated answers among them."""
    rng = random.Random(seed)
    rows: list[Conversation] = []
    for row in range(1, num_rows + 1):
        contents = [sentence(rng), sentence(rng)] * rng.choice((1, 1, 2))
        if rows and row % 7 == 0:
            contents = [m.content for m in rows[-3].messages]
        if rows and row % 11 == 0:
            contents = [m.content for m in rows[-5].messages]
            contents[0] = edited(rng, contents[0], 1)
        if row % 5 == 0:
            contents[1] = "I am sorry, I can't help with that."
        if row % 13 == 0:
            contents[0] += f" mail me at someone{row}@mail.org"
        rows.append(talk(*contents, row=row, file=f"part{row // 100}.jsonl"))
    return rows


def in_parts(records, size: int) -> facts_lib.Facts:
    parts = [facts_of(*records[i : i + size]) for i in range(0, len(records), size)]
    return facts_lib.merge(parts)


def same(first: facts_lib.Facts, second: facts_lib.Facts) -> bool:
    pairs = [
        (getattr(first, field.name), getattr(second, field.name))
        for field in dataclasses.fields(facts_lib.Facts)
    ]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


# --- facts do not depend on how they were gathered


@pytest.mark.parametrize("size", [1, 7, 64, 300])
def test_the_size_of_shards_changes_nothing(size, monkeypatch):
    monkeypatch.setattr(facts_lib, "SAMPLED_ANSWERS", 90)  # fewer than there are
    records = many(250)
    whole, parts = facts_of(*records), in_parts(records, size)
    assert same(whole, parts)
    assert measures.quality_of(whole) == measures.quality_of(parts)


def test_gathering_is_merging(monkeypatch):
    monkeypatch.setattr(facts_lib, "_PARTS_AT_ONCE", 3)
    records = many(60)
    gathering = facts_lib.Gathering()
    for record in records:
        gathering.add(facts_of(record))
    assert same(gathering.merged(), facts_of(*records))
    assert len(facts_lib.Gathering().merged()) == 0


def test_a_block_of_text_ends_anywhere(monkeypatch):
    records = many(40)
    whole = facts_of(*records)
    monkeypatch.setattr(near_duplicates, "_BLOCK_BYTES", 300)
    assert same(facts_of(*records), whole)


def test_the_hash_seed_changes_nothing(tmp_path):
    program = (
        "import pathlib, sys; sys.path.insert(0, 'tests/data/quality')\n"
        "from test_quality import many, facts_of, facts_lib\n"
        "facts_lib.save(pathlib.Path(sys.argv[1]), facts_of(*many(120)))"
    )
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    facts_lib.save(here, facts_of(*many(120)))
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(there)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    for file in here.iterdir():
        assert file.read_bytes() == (there / file.name).read_bytes(), file.name


def test_what_was_saved_is_loaded(tmp_path):
    facts = facts_of(*many(50))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        facts_lib.save(tmp_path / name, facts)
    assert same(facts_lib.load(tmp_path / "one"), facts)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    (tmp_path / "one" / "facts.npz").write_bytes(b"PK\3\4 half")
    with pytest.raises(DataError, match="one/facts.npz: can't be read .*; delete .*one to prepare"):
        facts_lib.load(tmp_path / "one")
    with pytest.raises(DataError, match="none/facts.npz: can't be read .*; delete .*none to"):
        facts_lib.load(tmp_path / "none")


# --- what is counted


def test_only_rows_that_are_trained_count():
    record = talk("q", "")
    lost = talk("q", "a", row=2)
    bad = BadRow("a.jsonl", 3, "no messages", "messages=[]")
    outcomes = [kept(record), Outcome("a.jsonl", 2), Outcome("a.jsonl", 3, bad=bad)]
    facts = facts_lib.shard_facts([record, lost, bad], outcomes)
    assert len(facts) == 1 and facts.where(0) == "a.jsonl:1"
    assert set(facts.hints) == {"empty answer"}


def test_lengths_and_turns():
    records = [talk("q", "a"), talk("q", "a", "b", "c", row=2), PlainText("x", "a.jsonl", 3)]
    outcomes = [
        Outcome("a.jsonl", 1, (example_of(records[0], 5, 2),)),
        Outcome("a.jsonl", 2, (example_of(records[1], 9, 3), example_of(records[1], 20, 4))),
        Outcome("a.jsonl", 3, (example_of(records[2], 6, 6),)),
    ]
    report = measures.quality_of(facts_lib.shard_facts(records, outcomes))
    assert report.conversations == 3
    assert report.turns.histogram == [Bin(0, 1, 1), Bin(1, 2, 1), Bin(2, 4, 1)]
    tokens = report.tokens
    assert (tokens.min, tokens.median, tokens.max, tokens.sum) == (5, 6, 29, 40)
    assert [bin_.rows for bin_ in tokens.histogram] == [2, 0, 1]
    assert tokens.histogram[0].start == 4 and tokens.histogram[-1].below == 32
    assert report.supervised.share == 15 / 40


def test_no_rows_give_a_report():
    report = measures.quality_of(facts_lib.merge([]))
    assert report.conversations == 0 and report.tokens.histogram == []
    overlap = measures.overlap_of(facts_lib.merge([]), facts_of(talk("q", "a")))
    assert [one.rows for one in (overlap.exact, overlap.same_prompt, overlap.near)] == [0, 0, 0]


# --- duplicates


def test_white_space_aside_the_same_dialogue_is_a_duplicate():
    rows = [
        talk("Who  are you?", "I am\nI.", row=1),
        talk("Who are you?", "I am I.", row=2),
        talk("who are you?", "I am I.", row=3),
        talk("Who are you?", "I am I.", row=4, system="Be kind."),
        talk("Who are", "you?", "I am", "I.", row=5),
        Conversation(
            (Message("user", "Who are you?"), Message("assistant", "I am I.", "hm")),
            None,
            "a.jsonl",
            6,
        ),
    ]
    found = measures.quality_of(facts_of(*rows)).exact_duplicates
    assert found.rows == 1
    assert found.examples == [RowPair("a.jsonl:1", "a.jsonl:2")]


def test_tool_calls_make_a_difference():
    def with_call(city: str, row: int) -> Conversation:
        call = {"function": {"name": "weather", "arguments": {"city": city}}}
        answer = Message("assistant", "", tool_calls=(call,))
        return Conversation((Message("user", "Rain?"), answer), None, "a.jsonl", row)

    report = measures.quality_of(facts_of(*(with_call(c, n) for n, c in enumerate("AAB", start=1))))
    assert report.exact_duplicates.rows == 1
    assert report.repeated_prompts.rows == 1  # A and B
    assert "empty answer" not in report.hints


def test_tokens_of_another_program_are_compared_by_id():
    def tokenized(ids, row):
        ids = np.array(ids, np.int32)
        return Tokenized(ids, np.ones(len(ids), np.float32), "a.jsonl", row)

    ids = list(range(100))
    rows = [tokenized(ids, 1), tokenized(ids, 2), tokenized([*ids[:-1], 7], 3)]
    report = measures.quality_of(facts_of(*rows, talk("q", "a", row=4)))
    assert report.exact_duplicates.rows == 1
    assert report.near_duplicates.examples[0].again == "a.jsonl:3"


def jaccard(first: str, second: str) -> float:
    """The exact figure that signatures estimate, from its definition."""
    sets = []
    for text in (first, second):
        words = "".join(char if char.isalnum() else " " for char in text.lower()).split()
        sets.append(set(zip(words, [*words[1:], ""], strict=True)))
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_the_estimate_is_the_share_of_common_word_pairs():
    rng = random.Random(1)
    texts = [sentence(rng, 120) for _ in range(200)]
    others = [edited(rng, text, rng.randrange(40)) for text in texts]
    signatures = near_duplicates.signatures(texts), near_duplicates.signatures(others)
    errors = near_duplicates.similarity(*signatures) - np.array(
        [jaccard(*pair) for pair in zip(texts, others, strict=True)]
    )
    assert abs(errors.mean()) < 0.015 and errors.std() < 0.08


def test_of_short_texts_the_estimate_is_all_but_exact():
    texts = ["Ja, gern!", "ja gern", "Nein, danke.", "a b c d e f", "a b c d e x"]
    signatures = near_duplicates.signatures(texts)
    first, second = np.triu_indices(len(texts), 1)
    estimates = near_duplicates.similarity(signatures[first], signatures[second])
    exact = [jaccard(texts[i], texts[j]) for i, j in zip(first, second, strict=True)]
    assert np.allclose(estimates, exact, atol=0.15)
    assert estimates[0] == 1


def test_a_script_without_spaces_has_its_characters_for_words():
    text = "我们今天去公园散步然后回家吃饭看书睡觉明天再来这里见面聊天喝茶"
    other = text[:14] + "写" + text[15:]
    signatures = near_duplicates.signatures([text, other, text[::-1]])
    near, far = near_duplicates.similarity(signatures[:1].repeat(2, 0), signatures[1:])
    assert near > 0.75 and far < 0.2


@pytest.mark.parametrize(("num_edits", "recall"), [(1, 0.99), (3, 0.97), (6, 0.85)])
def test_planted_twins_are_found_and_no_others(num_edits, recall):
    """150 words: 6 edits leave a true similarity of about 0.85."""
    rng = random.Random(2)
    texts = [sentence(rng, 150) for _ in range(500)]
    twins = [edited(rng, text, num_edits) for text in texts]
    signatures = near_duplicates.signatures([*texts, *twins])
    first, second, score = near_duplicates.similar_pairs(signatures)
    right = second == first + len(texts)
    assert right.sum() >= recall * len(texts)
    assert right.all()
    assert (score >= near_duplicates.SIMILAR).all()
    asked, among, _ = near_duplicates.similar_between(signatures[500:], signatures[:500])
    assert (asked == among).all() and len(asked) >= recall * len(texts)


def test_each_of_many_alike_has_a_twin():
    rng = random.Random(3)
    text = sentence(rng, 150)
    rows = [talk(edited(rng, text, 1), f"Yes, number {n} is.", row=n) for n in range(1, 301)]
    rows += [talk(sentence(rng, 150), "No, that is wrong.", row=n) for n in range(301, 401)]
    report = measures.quality_of(facts_of(*rows)).near_duplicates
    assert report.rows == 300 and report.later_rows == 299
    assert len(report.examples) == 10


def test_exact_duplicates_are_not_near_ones_too():
    rng = random.Random(4)
    text = sentence(rng)
    rows = [talk(text, "a", row=1), talk(text, "a", row=2), talk(text + " x", "a", row=3)]
    report = measures.quality_of(facts_of(*rows))
    assert report.exact_duplicates.rows == 1
    assert report.near_duplicates.rows == 2
    example = report.near_duplicates.examples[0]
    assert (example.first, example.again) == ("a.jsonl:1", "a.jsonl:3")


def test_system_prompts_do_not_make_rows_alike():
    rng = random.Random(5)
    system = sentence(rng, 500)
    rows = [talk(sentence(rng, 9), sentence(rng, 9), row=n, system=system) for n in range(1, 50)]
    assert measures.quality_of(facts_of(*rows)).near_duplicates.rows == 0


def test_overlap_counts_each_row_once():
    rng = random.Random(6)
    train = [talk(sentence(rng), sentence(rng), row=n) for n in range(1, 101)]
    question, answer = (m.content for m in train[41].messages)
    held_out = [
        talk(question, answer, row=1, file="e.jsonl"),
        talk(question, edited(rng, answer, 1), row=2, file="e.jsonl"),
        talk(edited(rng, question, 1), edited(rng, answer, 1), row=3, file="e.jsonl"),
        talk(sentence(rng), sentence(rng), row=4, file="e.jsonl"),
    ]
    overlap = measures.overlap_of(facts_of(*train), facts_of(*held_out))
    assert overlap.rows == 4
    for row, found in enumerate((overlap.exact, overlap.same_prompt, overlap.near), start=1):
        (example,) = found.examples
        assert (example.held_out, example.train) == (f"e.jsonl:{row}", "a.jsonl:42")
        assert (found.rows, found.share) == (1, 0.25)


def test_one_answer_given_many_times():
    rows = many(100)
    found = measures.quality_of(facts_of(*rows)).repeated_answers.examples[0]
    assert found.text == "I am sorry, I can't help with that."
    assert int(found.where.removeprefix("part0.jsonl:")) % 5 == 0 and found.times >= 20


def test_a_repeated_answer_shows_in_a_sample(monkeypatch):
    monkeypatch.setattr(facts_lib, "SAMPLED_ANSWERS", 200)
    rng = random.Random(7)
    rows = [talk(sentence(rng), sentence(rng), row=n) for n in range(1, 301)]
    rows += [talk(sentence(rng), "Sorry, no.", row=n) for n in range(301, 901)]
    report = measures.quality_of(facts_of(*rows)).repeated_answers
    assert (report.answers, report.sampled) == (900, 200)
    assert abs(report.examples[0].share - 2 / 3) < 0.12


def test_the_first_examples_are_kept():
    rows = [talk(f"q{n}", "", row=n) for n in range(1, 30)]
    hint = in_parts(rows, 4).hints["empty answer"]
    assert hint.rows == 29
    assert [example.where for example in hint.examples] == [f"a.jsonl:{n}" for n in range(1, 6)]


def conversations(path: Path) -> list[Conversation]:
    rows = read_source(Source(path=str(path)))
    return [row for row in rows if isinstance(row, Conversation)]


@pytest.mark.parametrize(
    ("path", "share"),
    [
        ("gsm8k/train.jsonl", 0.0),
        ("oasst_en/conversations.jsonl", 0.02),
        ("taskmaster4/conversations.jsonl", 0.01),
    ],
)
def test_real_answers_mostly_have_an_end(assets, path, share):
    report = measures.quality_of(facts_of(*conversations(assets / path)[:4000]))
    found = report.hints.get("answer without end", HintedRows())
    assert found.share <= share


def test_real_duplicates_are_found(assets):
    """glaive_toolcall repeats whole rows."""
    rows = conversations(assets / "glaive_toolcall" / "conversations.jsonl")
    by_text = {}
    for row in rows:
        by_text.setdefault(str([(m.role, m.content, m.tool_calls) for m in row.messages]), row)
    report = measures.quality_of(facts_of(*rows))
    assert report.exact_duplicates.rows == len(rows) - len(by_text) == 38
