"""Shows the tokens of a run's data with their weights, as trained: in colour, as one HTML page, or
as JSON lines.

    python tools/inspect_data.py --config=configs/x.py [--split=eval] [--source=NAME] [--limit=20]
        [--format=html --output=page.html]
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import TextIO

from absl import flags
from rich.console import Console

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.config import Config
from jaxsft.data.cache import divided
from jaxsft.data.encode.tokenizer_files import open_tokenizer
from jaxsft.data.report import inspect, inspect_html
from jaxsft.errors import ConfigError
from jaxsft.terminal import streams
from jaxsft.terminal.console import Console as Progress
from jaxsft.training import inputs

jaxsft_flags.define_config()
_SPLIT = flags.DEFINE_enum("split", "train", ["train", "eval"], "Which data of the config.")
_SOURCE = flags.DEFINE_string("source", None, "Name of the one source to show; all when not set.")
_LIMIT = flags.DEFINE_integer(
    "limit",
    None,
    "Rows shown, shared by the sources; when not set all, but for html "
    f"{inspect_html.DEFAULT_ROWS}.",
    lower_bound=1,
)
_FORMAT = flags.DEFINE_enum(
    "format", "terminal", ["terminal", "html", "jsonl"], "Form of the output."
)
_TITLES = {"train": "Training data, as trained", "eval": "Evaluation data, as evaluated"}
_OUTPUT = flags.DEFINE_string("output", None, "File written instead of standard output.")


def start() -> None:
    jaxsft_flags.run_program(main)


def main(config: Config) -> None:
    is_train, data = _SPLIT.value == "train", config.data
    sources = data.train if is_train else data.eval
    held_out_of = data.train if not is_train and data.holdout is not None else ()
    if not sources and not held_out_of:
        raise ConfigError(f"--split={_SPLIT.value}: config.data.{_SPLIT.value} is empty")
    model = inputs.open_model(config, lambda topic, text: None, weights=False)
    tokenizer = open_tokenizer(str(inputs.tokenizer_directory(config)), config.data)
    limit = _LIMIT.value
    if limit is None and _FORMAT.value == "html":
        limit = inspect_html.DEFAULT_ROWS
    num_tokens = model.settings.num_tokens
    apart = {}
    if is_train and divided.divides(data) or held_out_of:
        # Which rows those are shows when all of them have been read.
        quiet = Progress(speaks=False)
        train_only = dataclasses.replace(config, data=dataclasses.replace(data, eval=()))
        apart = divided.rows_apart(inputs.prepare_data(train_only, model, quiet).train)
    rows = inspect.InspectedRows(
        sources, data, tokenizer, num_tokens, _SOURCE.value, limit, apart, held_out_of
    )
    with _opened(_OUTPUT.value) as output:
        if _FORMAT.value == "jsonl":
            inspect.write_jsonl(rows, tokenizer, output)
        elif _FORMAT.value == "html":
            inspect_html.write_page(rows, tokenizer, output, _TITLES[_SPLIT.value])
        else:
            inspect.show(rows, tokenizer, Console(file=output, highlight=False, soft_wrap=True))


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[TextIO]:
    if path is None:
        streams.end_when_lost()  # inspect_data | head
        yield sys.stdout
        return
    try:
        file = open(path, "w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output={path}: can't be written: {error.strerror}") from None
    with file:
        yield file
