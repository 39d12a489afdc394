"""The data of a run: its sources, and what of them carries loss."""

import dataclasses
from typing import Literal

Format = Literal[
    "auto",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "question_answer",
    "text",
    "tokenized",
]
Part = Literal["content", "reasoning", "tool_calls", "tool_results", "end_of_turn"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    # .jsonl, .jsonl.gz, .jsonl.zst, .json, .parquet or .array_record; local or gs://; a pattern
    # such as data/*.jsonl for many; hub://owner/name for a data set of the hub
    path: str
    format: Format = "auto"  # "auto" looks at the first row's keys
    name: str | None = None  # in metrics and reports; the file's stem when None
    # How often an epoch sees each example; 0.5: every other epoch. At most one of weight and count.
    weight: float | None = None
    count: int | None = None  # examples in an epoch
    columns: dict[str, str] = dataclasses.field(default_factory=dict)  # the format's key -> theirs
    ignore: tuple[str, ...] = ()  # columns to take for not there, such as ("chosen", "rejected")
    subset: str | None = None  # of a hub data set
    split: str = "train"  # of a hub data set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    train: tuple[Source, ...]  # what is trained on
    sequence_length: int  # tokens in a packed row
    eval: tuple[Source, ...] = ()  # held-out sets, each evaluated by itself
    # Rows of train that are evaluated on instead, as the set "holdout": a share such as 0.05, or so
    # many rows. Rows that are alike, or have the same prompt, stay together on one side.
    holdout: int | float | None = None
    holdout_seed: int = 0  # which rows those are; train.seed changes none of it
    # Rows of train that repeat an earlier one, or are almost the same as one.
    duplicates: Literal["keep", "drop_exact", "drop_near"] = "keep"
    # Which assistant turns carry loss; "weighted_turns": those whose message has a weight.
    train_on: Literal["all_turns", "last_turn", "weighted_turns"] = "all_turns"
    # Parts of a turn that carry loss; "tool_results" are a tool's words: no model writes them.
    train_parts: tuple[Part, ...] = ("content", "reasoning", "tool_calls", "end_of_turn")
    # A conversation longer than sequence_length; "truncate" leaves out its oldest turns but keeps
    # the system message and the last turn whole.
    overlong: Literal["drop", "truncate", "error"] = "drop"
    bad_rows: Literal["error", "skip"] = "error"  # that can't be read or rendered; skipped, counted
    max_bad_rows: int = 20  # listed before giving up; with "skip", more than this many is an error
    cache_dir: str | None = None  # None: $XDG_CACHE_HOME/jaxsft or ~/.cache/jaxsft
    workers: int | None = None  # processes that prepare; None: one for each core
    tokenizer: str | None = None  # a directory; None: the model's own
    template: str | None = None  # a .jinja file; None: the tokenizer's own
    # Variables of the template, as {"enable_thinking": False}; a row's chat_template_kwargs win.
    template_options: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    template_date: str | None = None  # YYYY-MM-DD that a template writes; None: of the first start
    # Control tokens that an assistant's text may hold as such, like "<think>"; else they are text.
    trusted_control_tokens: tuple[str, ...] = ()
