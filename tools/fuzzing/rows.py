"""Files of rows in each format, read as preparing data reads them, up to ids and weights."""

import copy
import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from fuzzing import changes
from jaxsft.config import Data, Source
from jaxsft.data.cache import shards
from jaxsft.data.read.bad_rows import listed

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "configs" / "debug_model"
VOCAB = 512  # of MODEL
_CALL = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
# One row and more of each format, with all that a row may have.
ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [
        {
            "messages": [
                {"role": "system", "content": "Short."},
                {"role": "user", "content": [{"type": "text", "text": "2+2? é🙂"}]},
                {"role": "assistant", "content": "4.", "reasoning_content": "sum", "weight": 0.5},
                {"role": "user", "content": "And 3+3?"},
                {"role": "assistant", "content": "6.", "train": True},
            ],
            "chat_template_kwargs": {"enable_thinking": False},
            "source": "made",
        },
    ],
    "tools": [
        {
            "messages": [
                {"role": "user", "content": "Add."},
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "add"},
                {"role": "assistant", "content": "It is 1."},
            ],
            "tools": [_TOOL],
        },
    ],
    "sharegpt": [
        {
            "conversations": [
                {"from": "human", "value": "Hi."},
                {"from": "gpt", "value": "Hello.", "loss": 1},
            ],
            "system": "Kind.",
        },
    ],
    "alpaca": [
        {
            "instruction": "Say",
            "input": "hi",
            "output": "hi",
            "history": [["a", "b"]],
            "system": "",
        },
    ],
    "prompt": [{"prompt": "What?", "completion": "That."}],
    "question": [{"question": "What?", "answer": "That."}],
    "text": [{"text": "Once upon a time.", "url": "https://x.org"}],
    "tokens": [
        {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4], "attention_mask": [1, 1, 1, 1]},
        {"input_ids": [1, 2, 3], "loss_mask": [0, 1, 1], "position_ids": [0, 1, 2]},
    ],
}


def _each(folder: Path, name: str) -> Any:
    for form, rows in ROWS.items():
        (folder / form).mkdir(parents=True)
        yield folder / form / name, copy.deepcopy(rows) * 2


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def jsonl_seeds(folder: Path) -> None:
    for file, rows in _each(folder, "rows.jsonl"):
        file.write_bytes(_lines(rows))


def json_seeds(folder: Path) -> None:
    for file, rows in _each(folder, "rows.json"):
        file.write_text(json.dumps(rows))


def gz_seeds(folder: Path) -> None:
    for file, rows in _each(folder, "rows.jsonl.gz"):
        file.write_bytes(gzip.compress(_lines(rows)))


def zst_seeds(folder: Path) -> None:
    for file, rows in _each(folder, "rows.jsonl.zst"):
        file.write_bytes(_pack(_lines(rows)))


def parquet_seeds(folder: Path) -> None:
    for file, rows in _each(folder, "rows.parquet"):
        for message in rows[0].get("messages", []):  # a column holds texts or lists, never both
            message["content"] = str(message["content"])
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def array_record_seeds(folder: Path) -> None:
    from array_record.python import array_record_module

    for file, rows in _each(folder, "rows.array_record"):
        writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
        for row in rows:
            writer.write(json.dumps(row).encode())
        writer.close()


def _pack(data: bytes) -> bytes:
    return pyarrow.compress(data, "zstd", asbytes=True)


def change_zst(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        return changes.of_bytes(data, chance)
    with pyarrow.CompressedInputStream(pyarrow.py_buffer(data), "zstd") as stream:
        return _pack(changes.of_lines(stream.read(), chance))


def change_parquet(data: bytes, chance: random.Random) -> bytes:
    """Its bytes, or the same file of other values and types."""
    if chance.random() < 0.6:
        return changes.of_bytes(data, chance)
    rows = pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    made = pyarrow.BufferOutputStream()
    try:
        table = pyarrow.Table.from_pylist(changes.of_values(rows, chance))
        pyarrow.parquet.write_table(table, made)
    except Exception:  # no table: values of several types in a column
        return changes.of_bytes(data, chance)
    return made.getvalue().to_pybytes()


def read(folder: Path) -> None:
    """Each row of the file to ids and weights, with the chat_template.jinja of the case if any."""
    file = next(p for p in sorted(folder.iterdir()) if p.name.startswith("rows"))
    template = folder / "chat_template.jinja"
    data = Data(
        train=(),
        sequence_length=256,
        template=str(template) if template.exists() else None,
        overlong="truncate",
    )
    job = shards.ShardJob(f"fuzz {template}", folder, str(MODEL), data, VOCAB)
    if data.template is not None:  # each case has another
        shards.tokenizer_of.cache_clear()
    for chunk in shards.read_source_chunks(0, Source(path=str(file))):
        shard = shards.encode_shard(job, chunk)
        assert shard.lengths.sum() < 10**9 and np.isfinite(shard.supervised).all()
        assert all(listed(shard.bad, shard.tally.account().dropped))
