"""One cause is said once, with the first row, the count and the other rows."""

from jaxsft.data.conversation import BadRow
from jaxsft.data.read import bad_rows


def bad(row, detail, kind="unknown role", file="a.jsonl"):
    return BadRow(file, row, kind, detail)


def test_twenty_rows_of_one_cause_are_two_lines():
    rows = [bad(n, f"messages[{n % 3}] has role 'bot'") for n in range(1, 21)]
    assert bad_rows.listed(rows, {"unknown role": 300}) == [
        "a.jsonl:1: messages[1] has role 'bot'",
        "  and 299 more rows (unknown role): a.jsonl:"
        + ", ".join(map(str, range(2, 21)))
        + ", ...",
    ]


def test_each_cause_has_its_line_and_each_file_its_rows():
    rows = [
        *(bad(3, "has role 'bot'"), bad(5, "is not JSON at column 9", "not JSON")),
        *(bad(7, "has role 'robot'"), bad(8, "has role 'bot'"), bad(2, "has role 'bot'", file="b")),
    ]
    assert bad_rows.listed(rows, {"unknown role": 4, "not JSON": 1}) == [
        "a.jsonl:3: has role 'bot'",
        "a.jsonl:7: has role 'robot'",
        "  and 2 more rows (unknown role): a.jsonl:8; b:2",
        "a.jsonl:5: is not JSON at column 9",
    ]


def test_as_many_causes_as_rows_do_not_fill_the_screen():
    lines = bad_rows.listed([bad(n, f"{'x' * n}") for n in range(1, 21)], {"unknown role": 20})
    assert len(lines) == 6 and lines[-1].startswith("  and 15 more rows (unknown role): a.jsonl:6,")


def test_a_column_is_one_cause_whatever_it_holds():
    kind = "column not read: images"
    rows = [bad(n, f"has images=[{chr(96 + n)!r}]", kind) for n in range(1, 9)]
    assert len(bad_rows.listed(rows, {kind: 8})) == 2


def test_a_kind_that_comes_late_is_named_too():
    """A thousand rows of one cause hide no other, in one shard or over several."""
    early = [bad(n, "has role 'bot'") for n in range(1, 1000)]
    late = [bad(1000, "is not JSON", "not JSON"), bad(1001, "is not JSON", "not JSON")]
    kept = bad_rows.first_of(early + late, 3)
    assert kept == [*early[:3], late[0]]
    assert bad_rows.first_of(kept + [bad(2000, "has role 'bot'"), *late], 3) == kept
    assert bad_rows.listed(kept, {"unknown role": 999, "not JSON": 2}) == [
        "a.jsonl:1: has role 'bot'",
        "  and 998 more rows (unknown role): a.jsonl:2, 3, ...",
        "a.jsonl:1000: is not JSON",
        "  and 1 more row (not JSON)",
    ]
