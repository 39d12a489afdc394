"""A cache without what is held out of it, and a cache of that: the same tokens, each row once."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest

from jaxsft.config import Data, Source
from jaxsft.data.cache import divided as divided_module
from jaxsft.data.cache import prepare as prepare_module
from jaxsft.data.cache.divided import HELD_OUT, divided, rows_apart
from jaxsft.data.cache.prepare import prepare
from jaxsft.data.encode.account import Account
from jaxsft.data.pack.epochs import epochs_of
from jaxsft.data.quality import division, row_statistics
from jaxsft.errors import DataError
from tests.data.quality.test_quality import sentence


def chat(*contents: str) -> dict:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two files of 60 rows; among those of the second are bad, long and repeated ones."""
    folder, rng = tmp_path_factory.mktemp("rows"), random.Random(1)
    texts = {"one": [], "two": []}
    for rows in texts.values():
        rows += [chat(sentence(rng, 9), sentence(rng, 9)) for _ in range(60)]
    texts["two"][5:5] = [{"messages": []}, chat("q", "long " * 400)]
    texts["two"] += texts["one"][:4] + [texts["two"][-1]]
    for name, rows in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tuple(Source(path=str(folder / f"{name}.jsonl")) for name in texts)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return Data(train=(), sequence_length=256, bad_rows="skip", cache_dir=cache)


@pytest.fixture(scope="module")
def whole(sources, data, tokenizer_dir):
    return prepare(sources, data, tokenizer_dir)


def tokens_of(cache) -> list:
    rows = cache.rows.tolist()
    pairs = cache.examples(range(len(cache)))
    return [(row, ids.tolist(), w.tolist()) for row, (ids, w) in zip(rows, pairs, strict=True)]


def parts(whole, data, **options):
    return divided(whole, dataclasses.replace(data, **options))


def test_nothing_is_taken_out_unless_asked(whole, data):
    assert divided(whole, data) == (whole, None)


@pytest.mark.parametrize("duplicates", ["keep", "drop_exact", "drop_near"])
def test_rows_in_are_those_trained_held_out_and_dropped(whole, data, duplicates):
    train, held = parts(whole, data, holdout=0.1, duplicates=duplicates)
    assert held is not None
    ours, theirs, all_ = tokens_of(train), tokens_of(held), tokens_of(whole)
    gone = [one for one in all_ if one not in ours and one not in theirs]
    assert len(ours) + len(theirs) + len(gone) == len(all_)
    assert not any(one in ours for one in theirs)
    assert len(gone) == (0 if duplicates == "keep" else 5)
    report = train.report
    assert (report.rows_in, report.rows_out, report.held_out) == (127, len(ours), len(theirs))
    assert held.report.rows_in == held.report.rows_out == held.report.examples == len(theirs)
    base = whole.report
    assert sum(report.dropped.values()) == sum(base.dropped.values()) + len(gone)
    assert report.examples == len(train) and report.supervised_turns == len(ours)
    assert report.tokens.rendered == base.tokens.rendered
    assert report.tokens.held_out == held.report.tokens.rendered == int(held.lengths.sum())
    used = report.tokens.supervised + report.tokens.context
    assert used == int(train.lengths.sum())
    assert report.tokens.supervised == int(train.supervised.sum())
    if gone:
        assert report.dropped[division.EXACT] == report.dropped_examples[division.EXACT] == 5
        lost = sum(len(ids) for _, ids, _ in gone)
        assert report.dropped_tokens[division.EXACT] == lost
        assert report.tokens.dropped == base.tokens.dropped + lost
        assert [pair.again.rpartition(":")[2] for pair in report.duplicates] == [
            *("63", "64", "65", "66", "67")
        ]


def test_each_source_has_its_account(whole, data):
    train, held = parts(whole, data, holdout=20, duplicates="drop_exact")
    assert held is not None
    for name, base in whole.report.sources.items():
        mine = train.report.sources[name]
        assert mine.rows_in == base.rows_in
        assert mine.held_out == held.report.sources[name].rows_in > 2
        assert mine.rows_in == mine.rows_out + mine.held_out + sum(mine.dropped.values())
    total = dataclasses.fields(Account)
    for field in (field.name for field in total if field.type is int):
        by_source = [getattr(s, field) for s in train.report.sources.values()]
        assert sum(by_source) == getattr(train.report, field)
    assert train.report.quality.conversations == train.report.rows_out
    assert train.report.quality.exact_duplicates.rows == 0


def test_the_parts_are_made_once_and_tokenize_nothing_again(whole, data, monkeypatch):
    first = parts(whole, data, holdout=11)
    monkeypatch.setattr(row_statistics, "load", None)
    monkeypatch.setattr(prepare_module.shards, "encode_all", None)
    again = parts(whole, data, holdout=11)
    assert [c.fingerprint for c in first] == [c.fingerprint for c in again]  # pyright: ignore
    assert tokens_of(first[1]) == tokens_of(again[1])


def test_what_decides_the_parts_decides_their_names(whole, data):
    options = (
        {"holdout": 10},
        {"holdout": 10, "holdout_seed": 1},
        {"holdout": 11},
        {"duplicates": "drop_exact"},
        {"duplicates": "drop_near"},
        {"holdout": 10, "duplicates": "drop_exact"},
    )
    found = [parts(whole, data, **one) for one in options]
    prints = [c.fingerprint for pair in found for c in pair if c is not None]
    assert len({*prints, whole.fingerprint}) == 1 + 6 + 4


@pytest.mark.parametrize(
    "option", [{"holdout": 0.1}, {"holdout_seed": 3}, {"duplicates": "drop_near"}]
)
def test_none_of_it_decides_what_is_tokenized(whole, data, sources, tokenizer_dir, option):
    again = prepare(sources, dataclasses.replace(data, **option), tokenizer_dir)
    assert again.fingerprint == whole.fingerprint


def test_a_cache_of_its_own_on_another_disk_is_the_same(
    whole, data, sources, tokenizer_dir, tmp_path
):
    there = dataclasses.replace(data, cache_dir=str(tmp_path))
    other = prepare(sources, there, tokenizer_dir)
    ours, theirs = parts(whole, data, holdout=9), parts(other, there, holdout=9)
    for mine, its in zip(ours, theirs, strict=True):
        assert mine is not None and its is not None
        assert mine.fingerprint == its.fingerprint and tokens_of(mine) == tokens_of(its)
        for file in sorted(mine.directory.iterdir()):
            assert file.read_bytes() == (its.directory / file.name).read_bytes()


def test_no_token_of_a_held_out_row_is_in_a_training_row(whole, data, sources):
    train, held = parts(whole, data, holdout=0.25)
    assert held is not None
    mixed = (dataclasses.replace(sources[0], weight=2.5), sources[1])
    epochs = epochs_of(train, mixed, sequence_length=256, batch_size=4, seed=0)
    seen = {index for epoch in range(4) for index in epochs.plan(epoch).order.tolist()}
    assert seen == set(range(len(train)))
    trained = {tuple(ids) for _, ids, _ in tokens_of(train)}
    assert not trained & {tuple(ids) for _, ids, _ in tokens_of(held)}


def test_why_a_row_is_apart(whole, data):
    train, held = parts(whole, data, holdout=10, duplicates="drop_exact")
    assert held is not None
    found = rows_apart(train)
    names = [reason for reason in found.values()]
    assert (names.count(HELD_OUT), names.count(division.EXACT)) == (10, 5)
    assert {key for key, why in found.items() if why == HELD_OUT} == {
        (source, whole.files[file], row) for source, file, row in held.rows.tolist()
    }


def test_a_part_is_of_no_use_without_the_whole_and_says_what_is_damaged(
    whole, data, sources, tokenizer_dir, tmp_path
):
    there = dataclasses.replace(data, cache_dir=str(tmp_path))
    base = prepare(sources, there, tokenizer_dir)
    train, _ = parts(base, there, holdout=5)
    np.save(train.directory / "examples.npy", np.arange(3))
    with pytest.raises(DataError, match="lengths but 3 examples; delete the directory"):
        parts(base, there, holdout=5)
    shutil.rmtree(train.directory)
    (base.directory / "row_counts.npz").write_bytes(b"")
    with pytest.raises(DataError, match="row_counts.npz: can't be read .*; delete"):
        parts(base, there, holdout=5)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_more_rows_than_there_are_are_refused(whole, data):
    with pytest.raises(DataError, match="holdout=500: of the 125 rows that can be trained on"):
        parts(whole, data, holdout=500)
    assert divided_module.divides(dataclasses.replace(data, holdout=500))


@pytest.mark.parametrize("options", [{}, {"holdout": 0.1}, {"duplicates": "drop_near"}])
def test_a_smaller_share_is_part_of_a_larger_and_of_the_same_rest(whole, data, options):
    all_, held = parts(whole, data, **options)
    found = {}
    for share in (0.25, 0.5, 1.0):
        train, its = parts(whole, data, share=share, **options)
        found[share] = {tuple(row) for row in train.rows.tolist()}
        assert len(found[share]) == round(share * len(all_))  # an example a row
        left_out = train.report.dropped.get(division.NOT_SHARED, 0)
        assert train.report.rows_out == len(all_) - left_out == len(found[share])
        assert (its is None) == (held is None)
        assert its is None or held is None or its.rows.tolist() == held.rows.tolist()
    assert found[0.25] < found[0.5] < found[1.0] == {tuple(row) for row in all_.rows.tolist()}
    # Neither is the beginning of the file.
    firsts = [sorted(rows)[: len(found[0.25])] for rows in (found[0.25], found[1.0])]
    assert firsts[0] != firsts[1]
