"""Published data sets are read to the last row."""

import json
from collections import Counter

import pytest

from jaxsft.config import Source
from jaxsft.data.conversation import BadRow, Conversation
from jaxsft.data.read.sources import read_source
from jaxsft.data.read.tool_calls import parse_tools
from jaxsft.errors import DataError

SETS = {
    "gsm8k/train.jsonl": (7473, ["user", "assistant"]),
    "p3_subset/train.jsonl": (11991, ["user", "assistant"]),
    "oasst_en/conversations.jsonl": (529, ["user", "assistant"]),
    "taskmaster4/conversations.jsonl": (3618, ["user", "assistant", "tool"]),
    "glaive_toolcall/conversations.jsonl": (300, ["user", "assistant", "tool"]),
    "glaive_toolcall/glaive_toolcall_en_demo.sharegpt.json": (300, ["user", "assistant", "tool"]),
}


def read(assets, path):
    return list(read_source(Source(path=str(assets / path))))


@pytest.mark.parametrize("path", SETS)
def test_every_row_is_a_conversation(assets, path):
    records = read(assets, path)
    assert [str(record) for record in records if isinstance(record, BadRow)] == []
    assert all(isinstance(record, Conversation) for record in records)
    roles = Counter(message.role for record in records for message in record.messages)
    assert (len(records), list(roles)) == SETS[path]


def test_its_other_columns_are_named(assets):
    named = {path: {name for row in read(assets, path) for name in row.unread} for path in SETS}
    assert {path.partition("/")[0]: names for path, names in named.items() if names} == {
        "oasst_en": {"lang", "tree_id"},
        "p3_subset": {"dataset", "template"},
        "taskmaster4": {"id"},
    }


def test_the_two_forms_of_one_data_set_are_the_same_conversations(assets):
    one, other = (read(assets, path) for path in SETS if "glaive" in path)
    assert [(r.messages, r.tools) for r in one] == [(r.messages, r.tools) for r in other]


def test_tools_in_a_file_of_their_own_are_tools(assets):
    tools = json.loads((assets / "taskmaster4/tools.json").read_text())
    assert parse_tools(tools) == tuple(tools)


def test_a_set_of_another_form_is_refused_with_its_keys(assets):
    with pytest.raises(DataError, match=r"\['id', 'instances', 'instruction', 'is_classification"):
        read(assets, "self_instruct_seeds/seed_tasks.jsonl")
