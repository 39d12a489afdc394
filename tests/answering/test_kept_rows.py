"""The file of rows and what stands beside it: killed anywhere, it goes on and has each row once."""

import json

import pytest

from jaxsft.answering.kept_rows import KeptRows
from jaxsft.errors import ConfigError, DataError
from tests.faults import fault

SETTINGS = {"model": "m", "sampling": {"temperature": 1.0}}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "rows.jsonl"


def row(run, key, text="x"):
    return {
        "messages": [{"role": "user", "content": text}],
        "answered_by": {"run": run, "prompt": key},
    }


def line(key, kept=(0,), left=()):
    whole = {"prompt": key, "answers": 2, "kept": list(kept), "tokens": 5, "seconds": 0.5}
    return whole | {"left": [{"why": why} for why in left]}


def opened(output, settings=SETTINGS):
    return KeptRows(output, settings)


def filled(output, *keys):
    kept = opened(output)
    for key in keys:
        kept.add([row(kept.run, key)], [line(key, left=["empty"])])
    kept.close()
    return kept


def keys(output):
    return [json.loads(one)["answered_by"]["prompt"] for one in output.read_text().splitlines()]


def test_what_is_done_is_known_again(output):
    first = filled(output, "a", "b")
    again = opened(output)
    again.close()
    assert again.done == {"a", "b"} and again.run == first.run and again.mended is None
    totals = again.totals
    assert (totals.prompts, totals.answers, totals.kept, totals.tokens) == (2, 4, 2, 10)
    assert totals.left == {"empty": 2} and totals.without_row == 0 and keys(output) == ["a", "b"]


@fault(
    "data",
    "`jaxsft answer` is killed while it writes",
    "started again it takes a cut line and rows of unfinished prompts away, and goes on",
    lost="the answers that were on their way",
    code="goes on",
)
@pytest.mark.parametrize("cut", [1, 20, None])
def test_rows_of_a_prompt_that_is_not_done_are_taken_away(output, cut):
    run = filled(output, "a").run
    orphan = json.dumps(row(run, "b"))
    with output.open("a") as file:
        file.write(orphan + "\n" + orphan[:cut] if cut else orphan)
    with (output.parent / "rows.jsonl.asked").open("a") as file:
        file.write('{"prompt": "b", "answ')
    kept = opened(output)
    assert kept.done == {"a"} and kept.mended and keys(output) == ["a"]
    kept.add([row(kept.run, "b")], [line("b")])
    kept.close()
    assert keys(output) == ["a", "b"] and filled(output).done == {"a", "b"}


def test_lines_of_others_stay(output):
    filled(output, "a")
    theirs = [json.dumps({"messages": []}), json.dumps(row("another run", "z")), "no JSON"]
    with output.open("a") as file:
        file.write("\n".join(theirs) + '\n{"mine": 1}')  # an editor left no last line break
    kept = opened(output)
    kept.add([row(kept.run, "b")], [line("b")])
    kept.close()
    lines = output.read_text().splitlines()
    assert lines[1:5] == [*theirs, '{"mine": 1}'] and len(lines) == 6 and kept.mended is None


def test_other_settings_and_other_files_are_refused(output):
    filled(output, "a")
    before = output.read_bytes()
    with pytest.raises(
        ConfigError, match="temperature': 1.0} and is {'temperature': 0.5}; go back"
    ):
        opened(output, SETTINGS | {"sampling": {"temperature": 0.5}})
    assert output.read_bytes() == before
    other = output.with_name("theirs.jsonl")
    other.write_text("{}\n")
    with pytest.raises(ConfigError, match="theirs.jsonl: is there already, and no theirs.jsonl"):
        opened(other)
    assert not other.with_name("theirs.jsonl.asked").exists()
    (output.parent / "rows.jsonl.asked").write_text("{}\n")
    with pytest.raises(DataError, match="rows.jsonl.asked:1: is no line of this program"):
        opened(output)


def test_two_processes_do_not_write_one_file(output):
    kept = opened(output)
    with pytest.raises(ConfigError, match="another process is writing it"):
        opened(output)
    kept.close()
    opened(output).close()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--output=.*file/rows.jsonl"):
        opened(tmp_path / "file" / "rows.jsonl")
