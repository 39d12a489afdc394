"""TRL's SFTTrainer on a file of conversations, held up before each step until it is asked for.

PYTHON_WITH_TRL tools/peers/trl_steps.py JOB.json

tools/bench/peer.py has the protocol; it needs nothing of jaxsft. TRL's own data path, padding and
loss over the assistants' turns; unlike its defaults the job's dtype and no gradient checkpointing.
"""

import contextlib
import json
import sys
import tempfile
import time

import datasets
import torch
import transformers
import trl
from serving import say, wait_for_step


class Turns(transformers.TrainerCallback):
    """A step is the time from when it was asked for, its batch's collation included."""

    def on_train_begin(self, args, state, control, **kwargs):
        versions = {"trl": trl.__version__, "torch": torch.__version__}
        say({"versions": versions, "loss": args.loss_type, "threads": torch.get_num_threads()})
        self.wait()

    def on_step_end(self, args, state, control, **kwargs):
        seconds = time.perf_counter() - self.started
        say({"seconds": seconds, **self.counted, "loss": float(self.loss)})
        self.wait()

    def on_train_end(self, args, state, control, **kwargs):
        say({"done": True})  # answers the step that was asked for and isn't there
        wait_for_step()

    def wait(self):
        self.counted = {"tokens": 0, "supervised_tokens": 0}
        wait_for_step()
        self.started = time.perf_counter()


class Trainer(trl.SFTTrainer):
    turns: Turns

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.turns.counted["tokens"] += int(inputs["attention_mask"].sum())
        self.turns.counted["supervised_tokens"] += int((inputs["labels"][:, 1:] != -100).sum())
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.turns.loss = (result[0] if return_outputs else result).detach()
        return result


def main(path):
    with open(path) as file:
        job = json.load(file)
    datasets.disable_progress_bars()
    optim = job["optim"]
    with open(job["conversations"]) as lines:
        rows = [{"messages": json.loads(line)["messages"]} for line in lines]
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["tokenizer"])
    if job["template"]:
        with open(job["template"]) as file:
            tokenizer.chat_template = file.read()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        args = trl.SFTConfig(
            output_dir=folder,
            assistant_only_loss=True,
            per_device_train_batch_size=job["batch_size"],
            max_length=job["sequence_length"],
            train_sampling_strategy="group_by_length" if job["length_grouped"] else "random",
            gradient_checkpointing=False,
            bf16=job["dtype"] == "bfloat16",
            use_cpu=not torch.cuda.is_available(),
            learning_rate=optim["peak_lr"],
            num_train_epochs=1,
            **dict.fromkeys(("save_strategy", "logging_strategy"), "no"),
            disable_tqdm=True,
            report_to="none",
            seed=job["seed"],
        )
        trainer = Trainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(
                job["model"], dtype=getattr(torch, job["parameter_dtype"])
            ),
            args=args,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.turns = Turns()
        trainer.add_callback(trainer.turns)
        trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
