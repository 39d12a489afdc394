"""What others measure of an export: lm-evaluation-harness and its stock Hugging Face back end."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import adapted
import pytest
import yaml

import jaxsft

HELD_OUT = Path(__file__).resolve().parents[2] / "configs" / "debug_data" / "heldout.jsonl"
COMMAND = shutil.which(os.environ.get("JAXSFT_TEST_LM_EVAL", "lm_eval"))
TOKENS = 16
TASK = {
    "task": "held_out",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": [], "max_gen_toks": TOKENS, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.mark.slow
@pytest.mark.skipif(COMMAND is None, reason="lm_eval isn't installed (pip install lm-eval)")
def test_the_harness_gets_the_answers_of_chat(tmp_path):
    model, rows = tmp_path / "model", tmp_path / "rows.jsonl"
    asked = [_first(row["messages"]) for row in _lines(HELD_OUT)]
    rows.write_text("".join(json.dumps({"question": one, "answer": ""}) + "\n" for one in asked))
    jaxsft.save_model(jaxsft.load_model(adapted.debug_base(tmp_path / "base")), model)
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(rows)}}}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "held_out.yaml").write_text(yaml.safe_dump(task))
    options = {
        "--model": "hf",
        "--model_args": f"pretrained={model},dtype=float32",
        "--tasks": "held_out",
        "--include_path": str(tmp_path / "tasks"),
        "--device": "cpu",
        "--batch_size": "4",
        "--output_path": str(tmp_path / "out"),
    }
    flags = [part for pair in options.items() for part in pair]
    subprocess.run(
        [str(COMMAND), "run", *flags, "--apply_chat_template", "--log_samples"],
        check=True,
        env=os.environ | {"HF_DATASETS_OFFLINE": "1"},
    )
    (samples,) = (tmp_path / "out").glob("*/samples_*.jsonl")
    got = {one["doc_id"]: one["resps"][0][0] for one in _lines(samples)}
    prompts = [[{"role": "user", "content": one}] for one in asked]
    replies = jaxsft.Chat(model).answers(prompts, max_new_tokens=TOKENS, temperature=0.0)
    assert [got[number] for number in range(len(asked))] == [one.text for one in replies]
    assert any(one.text.strip() for one in replies)


def _first(messages):
    return next(one["content"] for one in messages if one["role"] == "user")


def _lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]
