"""Writes rows to train on, answered by a model: any that jaxsft opens, or one behind a URL.

    jaxsft answer --model=ANY --prompts=F --output=rows.jsonl [--samples=4 --temperature=1.0
                  --keep=SCORER --held_out=G]
    jaxsft answer --url=https://host/v1 --model=NAME --key_variable=KEY --prompts=F --output=...

Of the answers to a prompt those are kept that end by themselves and that the scorer calls right.
Each row says whose it is. Started again, it goes on where it was; docs/answer.md has the rest.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxsft.cli import flags as jaxsft_flags
from jaxsft.cli import sampling_flags
from jaxsft.config import Config, Data, Model, Optim, Source, Train
from jaxsft.errors import ConfigError
from jaxsft.terminal.redact import redacted

if TYPE_CHECKING:
    from jaxsft.answering.answer import Answerer
    from jaxsft.evaluation.endpoint import Endpoint
    from jaxsft.generation.chat import Chat
    from jaxsft.generation.sampling import Sampling
    from jaxsft.terminal.console import Console

jaxsft_flags.define_config()
_SHORTEST = "shortest"
_MODEL = flags.DEFINE_string("model", None, "as of chat; with --url the server's name for it")
_URL = flags.DEFINE_string("url", None, "of an OpenAI-compatible server, up to /v1")
_KEY = flags.DEFINE_string("key_variable", None, "of the environment, that holds the server's key")
_WORKERS = flags.DEFINE_integer("workers", 8, "requests to the server at a time", 1)
_RETRIES = flags.DEFINE_integer("retries", 5, "of a request whose failure may pass", 0)
_TIMEOUT = flags.DEFINE_float("timeout_seconds", 300.0, "for a reply of the server", 0.001)
_PROMPTS = flags.DEFINE_string("prompts", None, "file of rows, in any format that is trained on")
_OUTPUT = flags.DEFINE_string("output", None, "file of rows to write, .jsonl")
_LIMIT = flags.DEFINE_integer("limit", None, "prompts that are asked; all when not set", 1)
_SAMPLES = flags.DEFINE_integer("samples", 1, "answers to each prompt", 1)
_KEEP = flags.DEFINE_string(
    "keep",
    None,
    "scorer whose right answers are kept: exact, contains, number, json, tool_calls, an object such"
    ' as {"kind": "regex", "pattern": "..."}, or the name of one of config.eval.scorers; whatever'
    " ends when not set",
)
_LEAST = flags.DEFINE_float("least_score", None, "from which on an answer is kept; 1 when not set")
_MOST = flags.DEFINE_integer(
    "keep_most", None, "rows of a prompt, of the best; all when not set", 1
)
_PREFER = flags.DEFINE_enum(
    "prefer", "first", ["first", _SHORTEST], "which are the best, where scores are equal"
)
_REASONING = flags.DEFINE_enum(
    "reasoning",
    "keep",
    ["keep", "drop"],
    "of the answers; templates that know none refuse rows that have some",
)
_HELD_OUT = flags.DEFINE_multi_string(
    "held_out", [], "file whose prompts are not asked, beside those that --config evaluates on"
)
_TEMPLATE = flags.DEFINE_string("template", None, "a .jinja file instead of the model's template")
sampling_flags.define(max_new_tokens=1024)


def start() -> None:
    jaxsft_flags.run_program(main, required=("model", "prompts", "output"), known=_no_config)


def _no_config() -> Config:
    """Where none is named; it has training data because each run has."""
    return Config(
        model=Model(source="none"),
        data=Data(train=(Source(path="none"),), sequence_length=1024),
        optim=Optim(peak_lr=1e-5),
        train=Train(batch_size=1, steps=1),
    )


def main(config: Config) -> None:
    # These take seconds to import: not before the command line is known good.
    from jaxsft.answering import answer, asking
    from jaxsft.answering.keeping import Rule
    from jaxsft.answering.kept_rows import KeptRows, refuse_other
    from jaxsft.terminal.console import Console

    console, sampling = Console(), _sampling()
    asking.refuse_same_samples(_SAMPLES.value, sampling.temperature)
    rest = Rule(
        most=_MOST.value,
        prefers_short=_PREFER.value == _SHORTEST,
        reasons=_REASONING.value == "keep",
    )
    keep = asking.keep_of(_KEEP.value, _LEAST.value, rest, config)
    endpoint = _endpoint()
    refuse_other(Path(jaxsft_flags.given(_OUTPUT)))
    held_out = asking.held_out_of(_HELD_OUT.value, config, console)
    job = answer.Job(
        prompts=asking.source_of(jaxsft_flags.given(_PROMPTS)),
        held_out=held_out,
        rule=keep.rule,
        needs_reference=keep.needs_reference,
        output=Path(jaxsft_flags.given(_OUTPUT)),
        settings={},
        provenance={},
        limit=_LIMIT.value,
    )
    found = answer.surveyed(job, console)
    by, answerer = _opened(endpoint, sampling, console)
    settings = by | {"samples": _SAMPLES.value, "keep": keep.settings()}
    settings |= {"held_out": held_out.digest if len(held_out) else None}
    name = None if keep.rule.scorer is None else keep.rule.scorer.name
    job = dataclasses.replace(job, settings=settings, provenance={"scorer": name, **by})
    kept = KeptRows(job.output, job.settings)
    try:
        if kept.mended is not None:
            console.say("resume", kept.mended)
        answer.answer(job, found, kept, answerer, console)
    finally:
        kept.close()


def _sampling() -> "Sampling":
    from jaxsft.generation.sampling import Sampling

    return Sampling(**sampling_flags.sampling())


def _endpoint() -> "Endpoint | None":
    """None: the model is opened here."""
    from jaxsft.evaluation import endpoint

    if _URL.value is None:
        if _KEY.value is not None:
            raise ConfigError(f"--key_variable={_KEY.value}: is of a server; name it in --url")
        return None
    if _TEMPLATE.value is not None:
        raise ConfigError(f"--template={_TEMPLATE.value}: the server of --url has its own")
    key = endpoint.key_in(_KEY.value, "--key_variable")
    return endpoint.endpoint_of(_URL.value, key, _TIMEOUT.value, _RETRIES.value, "--url")


def _opened(
    endpoint: "Endpoint | None", sampling: "Sampling", console: "Console"
) -> tuple[dict[str, Any], "Answerer"]:
    """Who answers: what the rows say of it, and it."""
    from jaxsft.answering import asking, own_model, served_model

    name, samples = jaxsft_flags.given(_MODEL), _SAMPLES.value
    by: dict[str, Any] = {"model": redacted(name)}
    chosen = {"sampling": {k: v for k, v in vars(sampling).items() if v is not None}}
    if endpoint is not None:
        settings = asking.request_settings(name, sampling)
        served = served_model.ServedModel(
            endpoint, settings, sampling.seed, samples, _WORKERS.value
        )
        return by | {"url": redacted(endpoint.url)} | chosen, served
    by |= {"sha256": own_model.digest_of(name)}
    console.say("model", f"{name}, {by['sha256'][:12]}")
    chat, dtype = _chat(name)
    by |= {"template": chat.tokenizer.template.sha256, "dtype": dtype} | chosen
    return by, own_model.OwnModel(chat, sampling, samples)


def _chat(name: str) -> "tuple[Chat, str]":
    import jax

    from jaxsft.generation.chat import Chat

    dtype = sampling_flags.dtype(jax.default_backend())
    chat = Chat(name, dtype=dtype, parameter_dtype=dtype, template=_TEMPLATE.value)
    if not chat.tokenizer.has_template:
        raise ConfigError(
            f"--model={name}: its tokenizer has no chat template to ask by; name one in --template"
        )
    return chat, dtype
