"""What the model does on held-out data: its loss, and its answers beside the reference answers."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxsft.config import Config, Source
from jaxsft.data.cache.prepare import source_names
from jaxsft.data.conversation import Conversation, Message
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.encode.tokenizer_files import open_tokenizer
from jaxsft.data.read import messages
from jaxsft.data.read.sources import read_source
from jaxsft.devices import distributed, mesh
from jaxsft.errors import ConfigError
from jaxsft.evaluation.generate import generate
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model.state import Params
from jaxsft.rundir.metric_lines import JsonLines, finite
from jaxsft.training.batch import Batch
from jaxsft.training.inputs import PreparedData, Say
from jaxsft.training.job import Job
from jaxsft.training.loader import Batches


def mean_losses(
    eval_step: Callable[[Params, Batch], Sums], params: Params, sets: dict[str, Batches]
) -> dict[str, float | None]:
    """`eval/<name>/loss` (nats per target) and `eval/<name>/token_accuracy` over each whole set.

    Sums are divided once, so that neither batch size nor packing changes a figure.
    """
    values = {}
    for name, batches in sets.items():
        steps = batches.stream(0, batches.epochs.steps_in(1))
        sums = [eval_step(params, batch) for batch, _ in steps]
        nll, weight, correct = (
            sum(float(getattr(part, field)) for part in jax.device_get(sums))
            for field in ("nll", "weight", "correct")
        )
        values[f"eval/{name}/loss"] = finite(nll / weight)
        values[f"eval/{name}/token_accuracy"] = finite(correct / weight)
    return values


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A held-out conversation up to its last answer, and that answer."""

    source: str
    row: int
    messages: tuple[Message, ...]
    tools: Any
    reference: str
    template_options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Measurer:
    """The figures of one run's held-out data, taken before, during and after training."""

    def __init__(self, config: Config, job: Job, data: PreparedData, samples: JsonLines, say: Say):
        self._config = config
        self._job = job
        self._data = data
        self._samples = samples
        self._say = say
        # Read here: before the first step what is no prompt is still cheap.
        self._prompts = held_out_prompts(config.data.eval, config.eval.prompts)

    def losses(self, params: Params) -> dict[str, float | None]:
        return mean_losses(self._job.program.eval_step, params, self._job.eval_batches)

    def measure(self, params: Params, phase: Literal["before", "after"]) -> dict[str, float | None]:
        """Losses, and the share of held-out prompts answered as the reference does.

        The untrained model is asked a second time with config.eval.instruction. The answers go to
        samples.jsonl.
        """
        values = self.losses(params)
        for name, value in values.items():
            self._say(phase, f"{name} {'not finite' if value is None else f'{value:.4f}'}")
        # Without prompts too: an earlier start may have had some.
        self._samples.keep(lambda sample: sample.get("phase") != "after" and phase != "before")
        if not self._config.eval.prompts:
            return values
        step = 0 if phase == "before" else self._job.num_steps
        prompts = distributed.together(lambda: self._prompts)
        asked = {phase: prompts}
        instruction = self._config.eval.instruction
        if phase == "before" and instruction is not None:
            asked["before_with_instruction"] = [with_instruction(p, instruction) for p in prompts]
        for how, questions in asked.items():
            samples = self._answer(params, questions)
            for sample in samples:
                self._samples.append({"step": step, "phase": how} | sample)
            followed = share(samples)
            if followed is not None:
                suffix = "_with_instruction" if how == "before_with_instruction" else ""
                values[f"eval/{prompts[0].source}/match{suffix}"] = followed
                self._say(phase, f"eval/{prompts[0].source}/match{suffix} {followed:.1%}")
        return values

    def _answer(self, params: Params, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        tokenizer = self._tokenizer
        stop_ids = set(self._data.train.manifest["end_of_turn_ids"]) | {tokenizer.eos_id}
        answers = generate(
            self._job.program.recipe.graphdef,
            params,
            [tokenizer.encode_prompt(p.messages, p.tools, p.template_options) for p in prompts],
            max_new_tokens=self._config.eval.max_new_tokens,
            stop_ids=sorted(id for id in stop_ids if id is not None),
            rows_multiple_of=mesh.parts("batch", self._job.program.mesh.shape),
        )
        samples = []
        for prompt, ids in zip(prompts, answers, strict=True):
            ended = bool(ids) and ids[-1] in stop_ids
            text = tokenizer.decode(ids[:-1] if ended else ids)
            samples.append(
                {
                    "source": prompt.source,
                    "row": prompt.row,
                    "prompt": str(prompt.messages[-1].content) if prompt.messages else "",
                    "answer": text,
                    "reference": prompt.reference,
                    "ended": ended,
                    "match": matches(text, prompt.reference, self._config.eval.match),
                }
            )
        return samples

    @functools.cached_property
    def _tokenizer(self) -> ChatTokenizer:
        return open_tokenizer(self._data.tokenizer_directory, self._config.data)


def held_out_prompts(sources: Sequence[Source], count: int) -> list[Prompt]:
    """The first `count` conversations of the first eval source that has conversations.

    Raises:
        ConfigError: no eval source has conversations, and some are asked for.
    """
    if not count:
        return []
    for name, source in zip(source_names(sources), sources, strict=True):
        rows = [row for row in read_source(source) if isinstance(row, Conversation)]
        prompts = [_prompt(name, row) for row in rows if row.messages[-1].role == "assistant"]
        if prompts:
            return prompts[:count]
    raise ConfigError(
        f"config.eval.prompts={count}: none of config.data.eval ends with an assistant's answer"
    )


def _prompt(name: str, row: Conversation) -> Prompt:
    reference = row.messages[-1].content or ""
    options = row.template_options
    return Prompt(name, row.row, row.messages[:-1], row.tools, str(reference), options)


def with_instruction(prompt: Prompt, instruction: str) -> Prompt:
    """The prompt with `instruction` as its only system message."""
    others = tuple(message for message in prompt.messages if message.role != "system")
    system = messages.parse_message({"role": "system", "content": instruction}, "instruction")
    return dataclasses.replace(prompt, messages=(system, *others))


def matches(answer: str, reference: str, how: str | None) -> bool | None:
    """Whether the answer is the reference's: as text, or as the JSON value that it spells."""
    if how is None:
        return None
    if how == "exact":
        return answer.strip() == reference.strip()
    try:
        return _same(json.loads(answer), json.loads(reference))
    except (ValueError, RecursionError):  # a number of 4,301 digits is no JSONDecodeError
        return False


def _same(left: Any, right: Any) -> bool:
    """Equal JSON values; Python's True == 1 and 1 == 1.0 are not equal in JSON's types."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def share(samples: Sequence[dict[str, Any]]) -> float | None:
    """The share of samples that match, or None where nothing was compared."""
    results = [sample["match"] for sample in samples if sample["match"] is not None]
    return float(np.mean(results)) if results else None
