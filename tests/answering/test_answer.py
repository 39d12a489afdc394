"""`jaxsft answer` as a user has it, with a server on this machine: from prompts to rows that are
prepared as they are."""

import json
import signal
import subprocess
import sys
import threading

import pytest

from jaxsft import errors
from jaxsft.config import Data, Source
from jaxsft.data.cache.prepare import prepare
from jaxsft.data.cache.store import Cache
from tests import programs
from tests.chat_server import Server, said
from tests.faults import fault

MODEL = programs.ROOT / "configs" / "debug_model"
SYSTEM = {"role": "system", "content": "Answer with a number."}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def completion(message, finish="stop", tokens=7):
    choice = {"message": message, "finish_reason": finish}
    return 200, json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}}), {}


def sums(body):
    """Right for an even seed; else wrong."""
    words = body["messages"][-1]["content"].split()
    value = sum(int(word) for word in words if word.isdigit()) + body["seed"] % 2
    return completion({"content": f" {value}\n", "reasoning_content": f"seed {body['seed']}"})


def answered(server, folder, *flags, output="rows.jsonl"):
    given = (f"--url={server.url}", "--model=teacher", f"--prompts={folder}/prompts.jsonl")
    return programs.tool("answer", *given, f"--output={folder / output}", *flags)


def prepared(folder, *files) -> Cache:
    sources = [Source(path=str(file)) for file in files]
    data = Data(
        train=tuple(sources), sequence_length=256, cache_dir=str(folder / "cache"), workers=1
    )
    return prepare(sources, data, str(MODEL))


KEPT = ("--seed=2", "--reasoning=drop")  # the debug model's template knows no reasoning
SAMPLED = ("--samples=4", "--temperature=1.0")


def test_right_answers_become_rows_that_are_prepared_as_they_are(tmp_path):
    write(
        tmp_path / "prompts.jsonl",
        {"messages": [SYSTEM, user("2 + 3"), assistant("5")]},
        {"messages": [user("1 + 1"), assistant("2"), user("4 + 4"), assistant("8")]},
        {"messages": [user("7 + 1"), assistant("8")]},
    )
    with Server(sums) as server:
        done = answered(server, tmp_path, *SAMPLED, "--keep=exact", "--top_p=0.9", *KEPT)
    assert done.returncode == errors.DONE, done.stderr
    rows = rows_of(tmp_path / "rows.jsonl")
    bodies = [body for _, _, body in server.asked]
    assert len(bodies) == 12 and len({body["seed"] for body in bodies}) == 12
    assert len(rows) == 3  # without their reasoning all right answers to a prompt are one
    for body in bodies:
        assert body["model"] == "teacher" and body["max_tokens"] == 1024
        assert body["temperature"] == 1.0 and body["top_p"] == 0.9 and "top_k" not in body
    first = rows[0]
    assert first["messages"][:2] == [SYSTEM, user("2 + 3")]
    by = first["answered_by"]
    assert first["messages"][2] == assistant("5") and by["seed"] % 2 == 0
    assert by["model"] == "teacher" and by["url"].startswith(server.url) and by["score"] == 1
    assert by["where"].endswith("prompts.jsonl:1") and by["sampling"]["temperature"] == 1.0
    assert by["scorer"] == "exact" and by["of"] == 4 and by["jaxsft"] and by["tokens"] == 7
    (two_turns, *_) = [row for row in rows if len(row["messages"]) == 4]
    assert two_turns["messages"][1] == assistant("2") | {"weight": 0}
    assert "3 prompts, 12 answers, 3 kept; 84 tokens" in done.stdout
    assert "6 the same as an earlier answer, 3 score too low" in done.stdout

    cache = prepared(tmp_path, tmp_path / "rows.jsonl")
    assert cache.report.rows_in == cache.report.rows_out == 3
    assert cache.report.unread_columns == {"answered_by": 3}
    assert not cache.report.dropped


def test_a_second_start_asks_nothing_again_and_new_prompts_alone(tmp_path):
    rows = [{"prompt": f"{n} + 1", "completion": str(n + 1)} for n in range(6)]
    prompts = write(tmp_path / "prompts.jsonl", *rows[:4])
    with Server(sums) as server:
        answered(server, tmp_path, *SAMPLED, "--limit=2")
        assert len(server.asked) == 8
        answered(server, tmp_path, *SAMPLED)
        assert len(server.asked) == 16
        write(prompts, *rows)
        done = answered(server, tmp_path, *SAMPLED)
        assert len(server.asked) == 24 and "resume     4 of 6 prompts are done" in done.stdout
        at_once = answered(server, tmp_path, *SAMPLED, output="others.jsonl")
        other = answered(server, tmp_path, "--samples=4", "--temperature=0.5")
    assert at_once.returncode == errors.DONE
    # A seed for each prompt and sample: written at once or in parts, the rows are the same.
    both = [rows_of(tmp_path / name) for name in ("rows.jsonl", "others.jsonl")]
    assert [[row["messages"] for row in one] for one in both][0] == [r["messages"] for r in both[1]]
    assert other.returncode == errors.BAD_CONFIG and len(server.asked) == 48
    assert "'temperature': 1.0" in other.stderr and "was begun with other settings" in other.stderr


def test_repeated_and_held_out_prompts_are_told_and_not_asked(tmp_path):
    long = f"Which of {', '.join(map(str, range(30)))} is the largest one, "
    write(
        tmp_path / "prompts.jsonl",
        {"prompt": "1 + 1"},
        {"prompt": "1  +  1"},
        {"prompt": "2 + 2"},
        {"prompt": long + "do you know?"},
        {"prompt": "3 + 3", "train": False},
        {"prompt": "4 + 4"},
    )
    held = write(
        tmp_path / "held.jsonl",
        {"messages": [SYSTEM, user("2 + 2"), assistant("4")]},
        {"messages": [user(long + "would you know?")]},
    )
    with Server(sums) as server:
        done = answered(server, tmp_path, f"--held_out={held}")
    assert done.returncode == errors.DONE, done.stderr
    asked = [body["messages"][-1]["content"] for _, _, body in server.asked]
    assert sorted(asked) == ["1 + 1", "4 + 4"]
    for row, why in (
        (2, "the same as an earlier prompt"),
        (3, "a prompt of the held-out data"),
        (4, "80% or more like a prompt of the held-out data"),
        (5, "train=False of the row"),
    ):
        (said_of,) = [one for one in done.stdout.splitlines() if f"prompts.jsonl:{row}:" in one]
        assert why in said_of


def test_what_a_config_evaluates_on_is_held_out_and_its_scorers_have_names(tmp_path):
    held = [json.loads(line) for line in (DEBUG_DATA / "heldout.jsonl").read_text().splitlines()]
    write(tmp_path / "prompts.jsonl", held[0], {"messages": [user("2 + 2"), assistant("4")]})
    flags = (
        f"--config={programs.ROOT}/configs/debug.py",
        '--config.eval.scorers=[{"kind": "regex", "pattern": "^[45]$", "name": "small"}]',
    )
    with Server(sums) as server:
        done = answered(server, tmp_path, *flags, "--keep=small")
        wrong = answered(server, tmp_path, *flags, "--keep=smal")
    assert done.returncode == errors.DONE and "prompts.jsonl:1: is not asked" in done.stdout
    (row,) = rows_of(tmp_path / "rows.jsonl")
    assert row["answered_by"]["scorer"] == "small" and len(server.asked) == 1
    assert wrong.returncode == errors.BAD_CONFIG and "did you mean 'small'?" in wrong.stderr


DEBUG_DATA = programs.ROOT / "configs" / "debug_data"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--samples=2",), "--samples=2: at --temperature=0 all answers"),
        (("--keep=exact",), "there is nothing to ask (1 no answer to compare with)"),
        (("--keep=exakt",), "--keep=exakt: no such scorer; did you mean 'exact'?"),
        (('--keep={"kind": "regex"}',), "--keep"),
        (("--keep={",), "--keep={: is no JSON"),
        (('--keep={"kind": "judge", "url": "https://h/v1", "model": "m"}',), "--least_score=0.8"),
        (("--least_score=0.5",), "--least_score=0.5: "),
        (("--temperature=-1",), "temperature"),
        (("--key_variable=NO_SUCH",), "--key_variable=NO_SUCH: the environment has no key"),
        (("--held_out=/no.jsonl",), "/no.jsonl: no such file"),
        (("--template=x.jinja",), "--template=x.jinja: the server of --url has its own"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(tmp_path, flags, said):
    write(tmp_path / "prompts.jsonl", {"prompt": "1 + 1"})
    with Server(sums) as server:
        done = answered(server, tmp_path, *flags)
    assert done.returncode in (errors.BAD_CONFIG, errors.BAD_DATA) and said in done.stderr
    assert not server.asked and not (tmp_path / "rows.jsonl").exists()
    assert "Traceback" not in done.stderr


def test_bad_rows_are_listed_with_their_lines(tmp_path):
    write(tmp_path / "prompts.jsonl", {"prompt": "1 + 1"}, {"prompt": 7}, {"prompt": 8})
    with Server(sums) as server:
        done = answered(server, tmp_path)
    assert done.returncode == errors.BAD_DATA and "2 rows can't be asked" in done.stderr
    assert "prompts.jsonl:2: prompt is 7; expected a list of messages" in done.stderr


@fault(
    "processes",
    "the server that `jaxsft answer` asks goes away, or refuses it",
    "asks again for a while, then ends with the server's words; started again it goes on",
    lost="the answers that were on their way",
    code="76, 64",
)
def test_a_server_that_goes_away_costs_nothing_that_was_answered(tmp_path):
    write(tmp_path / "prompts.jsonl", *({"prompt": f"{n} + 1"} for n in range(40)))
    refuses = threading.Event()

    def reply(body):
        if refuses.is_set() and body["messages"][-1]["content"] == "30 + 1":
            return 503, "busy", {}
        return sums(body)

    refuses.set()
    with Server(reply) as server:
        one_by_one = ("--workers=1", "--retries=0")
        done = answered(server, tmp_path, *one_by_one)
        assert done.returncode == errors.LOST_PEER and "HTTP 503 busy" in done.stderr
        assert "Traceback" not in done.stderr
        before = rows_of(tmp_path / "rows.jsonl")
        assert 20 <= len(before) <= 30
        refuses.clear()
        asked = len(server.asked)
        done = answered(server, tmp_path, *one_by_one)
        assert done.returncode == errors.DONE
        again = {body["messages"][0]["content"] for _, _, body in server.asked[asked:]}
        assert again.isdisjoint(row["messages"][0]["content"] for row in before)
    rows = rows_of(tmp_path / "rows.jsonl")
    assert rows[: len(before)] == before and len(rows) == 40
    for status, code in ((401, errors.BAD_CONFIG), (400, errors.BAD_CONFIG)):
        with Server((status, "no such model", {})) as server:
            done = answered(server, tmp_path, "--retries=0", output=f"{status}.jsonl")
        assert done.returncode == code and f"HTTP {status} no such model" in done.stderr


def test_answers_that_are_no_rows_are_left_out_with_their_reason(tmp_path):
    replies = [
        (said("", status=400), "refused by the server"),
        (completion({"content": "a"}, "length"), "cut at the limit"),
        (completion({"content": ""}), "empty"),
        (completion({"content": None}, "content_filter"), "stopped by the server"),
        (completion({"content": [1]}), "no chat completion"),
        ((200, "<html>", {}), "no chat completion"),
        (completion({"tool_calls": [{"function": {"arguments": "{"}}]}), "can't be read back"),
        (completion({"content": "<think>hm</think>Yes."}), None),
    ]
    write(tmp_path / "prompts.jsonl", *({"prompt": f"{n}"} for n in range(len(replies))))
    with Server(*(reply for reply, _ in replies)) as server:
        done = answered(server, tmp_path, "--workers=1")
    assert done.returncode == errors.DONE, done.stderr
    lines = rows_of(tmp_path / "rows.jsonl.asked")[1:]
    assert [next((one["why"] for one in line["left"]), None) for line in lines] == [
        why for _, why in replies
    ]
    assert all(line["left"][0]["detail"] for line in lines[:-1])
    (row,) = rows_of(tmp_path / "rows.jsonl")
    assert row["messages"][1] == assistant("Yes.") | {"reasoning_content": "hm"}
    assert "7 prompts gave no row" in done.stdout


def test_calls_are_sent_and_kept_as_calls(tmp_path):
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": [1, 2]}}}
    turns = [user("1 + 2"), {"role": "assistant", "tool_calls": [call]}]
    turns += [{"role": "tool", "content": "3", "tool_call_id": "c1"}]
    write(tmp_path / "prompts.jsonl", {"messages": turns, "tools": TOOLS})
    spelt = {"id": "c2", "type": "function", "function": {"name": "add", "arguments": '{"x": [3]}'}}
    with Server(completion({"content": None, "tool_calls": [spelt]}, "tool_calls")) as server:
        done = answered(server, tmp_path)
    assert done.returncode == errors.DONE, done.stderr
    ((_, _, body),) = server.asked
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"x": [1, 2]}'
    assert body["messages"][2]["tool_call_id"] == "c1"
    (row,) = rows_of(tmp_path / "rows.jsonl")
    assert row["messages"][1]["tool_calls"] == [call] and row["tools"] == TOOLS
    assert row["messages"][3]["tool_calls"][0]["function"]["arguments"] == {"x": [3]}


def test_the_key_is_sent_and_never_written(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER", "a-key-that-nobody-may-see")
    write(tmp_path / "prompts.jsonl", {"prompt": "1 + 1"})
    with Server(sums) as server:
        done = answered(server, tmp_path, "--key_variable=TEACHER")
    assert server.asked[0][1]["Authorization"] == "Bearer a-key-that-nobody-may-see"
    written = "".join(file.read_text() for file in tmp_path.glob("rows.jsonl*"))
    assert "nobody-may-see" not in written + done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@fault(
    "stopping",
    "SIGTERM or Ctrl-C while `jaxsft answer` waits for answers",
    "ends at once; the rows of finished prompts are there, and it goes on at the next start",
    lost="the answers that were on their way",
    code=75,
)
def test_a_stopped_one_goes_on_where_it_was(tmp_path, number):
    write(tmp_path / "prompts.jsonl", *({"prompt": f"{n} + 1"} for n in range(20)))
    stuck, goes_on = threading.Event(), threading.Event()

    def reply(body):
        if body["messages"][-1]["content"] == "12 + 1" and not goes_on.is_set():
            stuck.set()
            goes_on.wait(60)
        return sums(body)

    with Server(reply) as server:
        command = [sys.executable, "tools/answer.py", f"--url={server.url}", "--model=m"]
        command += [f"--prompts={tmp_path}/prompts.jsonl", f"--output={tmp_path}/rows.jsonl"]
        command += ["--workers=2"]
        process = subprocess.Popen(
            command, cwd=programs.ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert stuck.wait(120), process.kill()
        process.send_signal(number)
        _, errors_said = process.communicate(timeout=60)
        goes_on.set()
        assert process.returncode == errors.STOPPED, errors_said
        assert "start the same command again" in errors_said and "Traceback" not in errors_said
        before = rows_of(tmp_path / "rows.jsonl")
        assert 0 < len(before) <= 12
        asked = len(server.asked)
        done = answered(server, tmp_path, "--workers=2").returncode, len(server.asked) - asked
        other = programs.tool("answer", *command[2:])
        assert done == (errors.BAD_CONFIG, 0) and other.returncode == errors.DONE, other.stderr
    rows = rows_of(tmp_path / "rows.jsonl")
    assert rows[: len(before)] == before
    assert [row["messages"][0]["content"] for row in rows] == [f"{n} + 1" for n in range(20)]


def test_several_requests_are_on_their_way_and_rows_stay_in_order(tmp_path):
    write(tmp_path / "prompts.jsonl", *({"prompt": f"{n} + 1"} for n in range(12)))
    together = threading.Barrier(4, timeout=60)

    def reply(body):
        if int(body["messages"][0]["content"].split()[0]) < 4:
            together.wait()  # broken, and an error, unless all four are asked at once
        return sums(body)

    with Server(reply) as server:
        done = answered(server, tmp_path, "--workers=4")
    assert done.returncode == errors.DONE and not together.broken, done.stderr
    rows = rows_of(tmp_path / "rows.jsonl")
    assert [row["messages"][0]["content"] for row in rows] == [f"{n} + 1" for n in range(12)]


def test_what_data_holdout_takes_is_held_out(tmp_path):
    rows = [{"messages": [user(f"Name {n} of {n * n}"), assistant("x")]} for n in range(12)]
    train = write(tmp_path / "prompts.jsonl", *rows)
    source = json.dumps([{"path": str(train)}])
    flags = (f"--config={programs.ROOT}/configs/debug.py", f"--config.data.train={source}")
    flags += ("--config.data.holdout=3", f"--config.data.cache_dir={tmp_path}/cache")
    with Server(sums) as server:
        done = answered(server, tmp_path, *flags, "--config.data.workers=1")
    assert done.returncode == errors.DONE, done.stderr
    assert "and 2 more rows (a prompt of the held-out data)" in done.stdout
    assert len(server.asked) == 9
