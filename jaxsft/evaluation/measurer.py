"""What is measured of one run's model on held-out data, and where the answers go."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from jaxsft.config import Config
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.encode.tokenizer_files import open_tokenizer
from jaxsft.devices import distributed, progress
from jaxsft.evaluation import asked
from jaxsft.evaluation.answers import (
    Prompt,
    held_out_prompts,
    shots_of,
    with_instruction,
    with_shots,
)
from jaxsft.evaluation.asked import Reply
from jaxsft.evaluation.losses import figures_of, losses_unless, mean_losses
from jaxsft.evaluation.prompt_lengths import check_lengths
from jaxsft.evaluation.refusal.requests import requests
from jaxsft.evaluation.refusal.requests import scorers as refusal_scorers
from jaxsft.evaluation.scoring import registry
from jaxsft.evaluation.scoring.table import DURING
from jaxsft.files import records
from jaxsft.generation.generate import Interrupted, generate
from jaxsft.generation.sampling import Sampling
from jaxsft.model.state import Params
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.watch import watch_of
from jaxsft.training.inputs import PreparedData, Say
from jaxsft.training.job import Job

_SAID = ("/loss", "/token_accuracy")  # of the losses, on the terminal


class Measurer:
    """The figures of one run's held-out data, taken before, during and after training.

    Attributes:
        watch: follows config.checkpoint.best; None: the run follows no figure.

    Raises:
        ConfigError: there is no such figure.
    """

    def __init__(self, config: Config, job: Job, data: PreparedData, samples: JsonLines, say: Say):
        self._config = config
        self._job = job
        self._data = data
        self._samples = samples
        self._say = say
        # Read here: before the first step what is no prompt is still cheap.
        self._scorers = registry.scorers_of(config.eval)
        self._requests = requests(config.eval)
        count = config.eval.prompts
        self._prompts = held_out_prompts(config.data, count, data.train) if count else []
        if count:
            known = dict.fromkeys(prompt.source for prompt in self._prompts)
            registry.refuse_unknown_sets(self._scorers, known)
        asked_sets = dict.fromkeys(prompt.source for prompt in self._prompts)
        scores = asked.scores_of(config.eval, self._scorers, asked_sets)
        losses = figures_of(job.eval_batches)
        self.watch = watch_of(config.checkpoint, config.eval, losses, scores)
        if self._requests:
            self._scorers += refusal_scorers()

    def check_prompts(self, before: bool) -> None:
        """Refuses before anything is computed what the model has no positions for.

        Args:
            before: whether the untrained model will be asked, too.

        Raises:
            DataError, ConfigError: a prompt, or what the config puts before it.
        """
        prompts = distributed.together(lambda: self._prompts)
        ways = {"before": [*prompts, *self._requests]}
        ways |= self._helped(prompts) if before and prompts else {}
        positions, asks = self._job.program.settings.max_positions, self._config.eval
        if any(ways.values()):
            distributed.together(
                lambda: check_lengths(ways, lambda p: len(self._ids(p)), positions, asks, self._say)
            )

    @progress.during("evaluating")
    def losses(self, params: Params) -> dict[str, float | None]:
        return mean_losses(self._job.program.eval_step, params, self._job.eval_batches)

    @progress.during("evaluating")
    def losses_unless(
        self, stopped: Callable[[], bool], params: Params
    ) -> dict[str, float | None] | None:
        """None: `stopped` said so, to every process before the same batch."""
        step, sets = self._job.program.eval_step, self._job.eval_batches
        return losses_unless(stopped, step, params, sets)

    def on_the_way(
        self, stopped: Callable[[], bool], params: Params, step: int
    ) -> dict[str, float | None] | None:
        """The losses, and where config.eval.answer_every_steps says so what the prompts' answers
        are worth; None: `stopped` said so, to every process.

        Args:
            step: after which these are the parameters.
        """
        values = self.losses_unless(stopped, params)
        if values is None or not self._answers_at(step):
            return values
        if stopped():
            return None
        # Those of an earlier start, which came further.
        self._samples.keep(lambda line: line.get("phase") != DURING or line["step"] < step)
        try:
            return values | self._ask(params, {DURING: self._prompts}, step, stopped)
        except Interrupted:
            return None

    def followed(self, params: Params, step: int) -> dict[str, float | None]:
        """The figures of these parameters of which `watch` follows one."""
        assert self.watch is not None
        if self.watch.metric in figures_of(self._job.eval_batches):
            return self.losses(params)
        values = self.on_the_way(lambda: False, params, step)
        assert values is not None
        return values

    def _answers_at(self, step: int) -> bool:
        """Whether this evaluation is the first at or after a multiple of answer_every_steps."""
        asks, epochs = self._config.eval, self._job.batches.epochs
        if asks.answer_every_steps is None:
            return False
        before = step - 1
        while before and not epochs.is_due(asks.every_steps, asks.times_per_epoch, before):
            before -= 1
        return step // asks.answer_every_steps > before // asks.answer_every_steps

    def measure(
        self, params: Params, phase: Literal["before", "after"], step: int = 0
    ) -> dict[str, float | None]:
        """Losses, and what the answers to held-out prompts are worth.

        The untrained model is asked again with config.eval.instruction, and with examples before
        each prompt: so that it shows whether a prompt does what training is to do. The answers go
        to samples.jsonl.

        Args:
            step: after which these are the parameters.
        """
        values = self.losses(params)
        for name, value in values.items():
            if name.endswith(_SAID):
                self._say(phase, f"{name} {'not finite' if value is None else f'{value:.4f}'}")
        # Without prompts too: an earlier start may have had some.
        self._samples.keep(lambda sample: sample.get("phase") != "after" and phase != "before")
        prompts = distributed.together(lambda: self._prompts)
        if not prompts and not self._requests:
            return values
        ways = {phase: [*prompts, *self._requests]}
        ways |= self._helped(prompts) if phase == "before" and prompts else {}
        return values | self._ask(params, ways, step)

    def _helped(self, prompts: Sequence[Prompt]) -> dict[str, Sequence[Prompt]]:
        """The prompts with what may make training needless, by phase."""
        asks, ways = self._config.eval, {}
        if asks.instruction is not None:
            instruction = asks.instruction
            ways["before_with_instruction"] = [with_instruction(p, instruction) for p in prompts]
        if asks.shots:
            config, train = self._config, self._data.train
            turns = distributed.together(
                lambda: shots_of(config.data, train, asks.shots, config.train.seed, prompts)
            )
            ways["before_with_shots"] = [with_shots(prompt, turns) for prompt in prompts]
        return ways

    def _ask(
        self,
        params: Params,
        ways: Mapping[str, Sequence[Prompt]],
        step: int,
        stopped: Callable[[], bool] | None = None,
    ) -> dict[str, float | None]:
        """The figures of the answers, which go to samples.jsonl.

        Raises:
            Interrupted: `stopped` said so.
        """
        values: dict[str, float | None] = {}
        for phase, prompts in ways.items():
            answers = self._answer(params, prompts, stopped)
            samples = asked.samples_of(answers, self._scorers, step, phase, self._say)
            for sample in samples:
                self._samples.append(records.to_json(sample))
            figures = asked.figures_of(samples, phase)
            for name, value in figures.items():
                if name.startswith("eval/"):
                    self._say(phase.partition("_")[0], f"{name} {asked.said(value)}")
            values |= figures
        return values

    @progress.during("answering")
    def _answer(
        self, params: Params, prompts: Sequence[Prompt], stopped: Callable[[], bool] | None
    ) -> list[Reply]:
        tokenizer = self._tokenizer
        stop_ids = set(self._data.train.manifest.end_of_turn_ids) | {tokenizer.eos_id}
        answers = generate(
            self._job.program.recipe.graphdef,
            params,
            [self._ids(prompt) for prompt in prompts],
            Sampling(max_new_tokens=self._config.eval.max_new_tokens),
            stop_ids=[id for id in stop_ids if id is not None],
            stopped=stopped,
        )
        found = []
        for prompt, answer in zip(prompts, answers, strict=True):
            text = tokenizer.decode(answer.ids[:-1] if answer.ended else answer.ids)
            found.append(Reply(prompt, text, answer.ended, len(answer.ids)))
        return found

    def _ids(self, prompt: Prompt) -> list[int]:
        return self._tokenizer.encode_prompt(prompt.messages, prompt.tools, prompt.template_options)

    @functools.cached_property
    def _tokenizer(self) -> ChatTokenizer:
        return open_tokenizer(self._data.tokenizer_directory, self._config.data)
