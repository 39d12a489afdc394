"""TRL's own preparation of the same rows, a round for each line on standard input.

PYTHON_WITH_TRL tools/bench_data_trl.py DATA.jsonl TOKENIZER [TEMPLATE.jinja]

tools/bench_data.py runs it; it needs nothing of jaxsft.
"""

import contextlib
import json
import sys
import tempfile
import time

import datasets
import transformers
import trl


def messages(row):
    if "messages" in row:
        return row["messages"]
    asked, answered = (row["question"], row["answer"]) if "question" in row else row.values()
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def main(path, directory, template=None):
    datasets.disable_caching()
    datasets.disable_progress_bars()
    with open(path) as lines:
        rows = [{"messages": messages(json.loads(line))} for line in lines]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    if template:
        with open(template) as file:
            tokenizer.chat_template = file.read()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    seconds = []
    original = trl.SFTTrainer._prepare_dataset

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = original(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result

    trl.SFTTrainer._prepare_dataset = timed
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            args = trl.SFTConfig(
                output_dir=folder,
                assistant_only_loss=True,
                packing=True,
                max_length=8192,
                report_to="none",
                use_cpu=True,
                bf16=False,
            )
            trl.SFTTrainer(
                model=transformers.LlamaForCausalLM(config),
                args=args,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=tokenizer,
            )
        print(seconds[-1], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
