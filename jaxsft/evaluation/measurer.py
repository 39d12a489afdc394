"""What is measured of one run's model on held-out data, and where the answers go."""

import functools
from collections.abc import Callable, Sequence
from typing import Literal

from jaxsft.config import Config
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.data.encode.tokenizer_files import open_tokenizer
from jaxsft.devices import distributed, progress
from jaxsft.evaluation.answers import Prompt, held_out_prompts, matches, share, with_instruction
from jaxsft.evaluation.losses import figures_of, losses_unless, mean_losses
from jaxsft.files import records
from jaxsft.generation.generate import generate
from jaxsft.generation.sampling import Sampling
from jaxsft.model.state import Params
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.sample import Sample
from jaxsft.rundir.watch import watch_of
from jaxsft.training.inputs import PreparedData, Say
from jaxsft.training.job import Job


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
        self.watch = watch_of(config.checkpoint, config.eval, figures_of(job.eval_batches))
        # Read here: before the first step what is no prompt is still cheap.
        asked = config.eval.prompts
        self._prompts = held_out_prompts(config.data, asked, data.train) if asked else []

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

    def measure(
        self, params: Params, phase: Literal["before", "after"], step: int = 0
    ) -> dict[str, float | None]:
        """Losses, and the share of held-out prompts answered as the reference does.

        The untrained model is asked a second time with config.eval.instruction. The answers go to
        samples.jsonl.

        Args:
            step: after which these are the parameters.
        """
        values = self.losses(params)
        for name, value in values.items():
            self._say(phase, f"{name} {'not finite' if value is None else f'{value:.4f}'}")
        # Without prompts too: an earlier start may have had some.
        self._samples.keep(lambda sample: sample.get("phase") != "after" and phase != "before")
        if not self._config.eval.prompts:
            return values
        prompts = distributed.together(lambda: self._prompts)
        asked = {phase: prompts}
        instruction = self._config.eval.instruction
        if phase == "before" and instruction is not None:
            asked["before_with_instruction"] = [with_instruction(p, instruction) for p in prompts]
        for how, questions in asked.items():
            samples = self._answer(params, questions, step, how)
            for sample in samples:
                self._samples.append(records.to_json(sample))
            followed = share(samples)
            if followed is not None:
                suffix = "_with_instruction" if how == "before_with_instruction" else ""
                values[f"eval/{prompts[0].source}/match{suffix}"] = followed
                self._say(phase, f"eval/{prompts[0].source}/match{suffix} {followed:.1%}")
        return values

    @progress.during("answering")
    def _answer(
        self, params: Params, prompts: Sequence[Prompt], step: int, phase: str
    ) -> list[Sample]:
        tokenizer = self._tokenizer
        stop_ids = set(self._data.train.manifest.end_of_turn_ids) | {tokenizer.eos_id}
        answers = generate(
            self._job.program.recipe.graphdef,
            params,
            [tokenizer.encode_prompt(p.messages, p.tools, p.template_options) for p in prompts],
            Sampling(max_new_tokens=self._config.eval.max_new_tokens),
            stop_ids=[id for id in stop_ids if id is not None],
        )
        samples = []
        for prompt, answer in zip(prompts, answers, strict=True):
            text = tokenizer.decode(answer.ids[:-1] if answer.ended else answer.ids)
            samples.append(
                Sample(
                    step=step,
                    phase=phase,
                    source=prompt.source,
                    row=prompt.row,
                    prompt=str(prompt.messages[-1].content) if prompt.messages else "",
                    answer=text,
                    reference=prompt.reference,
                    ended=answer.ended,
                    match=matches(text, prompt.reference, self._config.eval.match),
                )
            )
        return samples

    @functools.cached_property
    def _tokenizer(self) -> ChatTokenizer:
        return open_tokenizer(self._data.tokenizer_directory, self._config.data)
