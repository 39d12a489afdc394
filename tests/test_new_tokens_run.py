"""New control tokens through the whole program: a base, a template of other tokens, an export.

The base has 513 rows, of which its tokenizer uses 512; the rows of tokens 0 and 1 are zeros.
"""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxsft
from jaxsft.convert import pretrained
from jaxsft.convert.export.directory import export
from jaxsft.model import state
from tests import programs
from tests.programs import ROOT, train
from tests.test_train import assert_same_result

# A whole run and its exports. tests/convert/test_new_tokens.py and tests/model/test_dead_rows.py
# show each part, tests/test_train.py a run.
pytestmark = pytest.mark.slow

TURN, OVER = "<|turn|>", "<|over|>"
TEMPLATE = (
    "<|endoftext|>{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|over|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TALK = [
    {"role": "user", "content": "hello"},
    # What a message spells is text, though the template's are tokens.
    {"role": "assistant", "content": "a <|over|> b"},
]
FIRST, ROWS = 512, 576
OWN_CODE = "modeling_own.py"  # which no export takes along


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pretrained model without the template's tokens."""
    directory = tmp_path_factory.mktemp("base")
    shutil.copytree(ROOT / "configs" / "debug_model", directory / "config")
    file = directory / "config" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": FIRST + 1}))
    model = pretrained.open_pretrained(directory / "config", weights=False)
    _, shapes, _ = state.abstract(model.settings, "float32", "none")
    one = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    params = state.random_params(model.settings, 0, one)
    params["embedding_VD"] = params["embedding_VD"].at[:2].set(0)
    exported = export(params, model, directory / "model").directory
    (exported / OWN_CODE).write_text("raise SystemExit")
    return exported


@pytest.fixture(scope="module")
def flags(base):
    data, template = base.parent / "talk.jsonl", base.parent / "turns.jinja"
    data.write_text(f"{json.dumps({'messages': TALK})}\n" * 16)
    template.write_text(TEMPLATE)
    given = {
        "model.source": base,
        "model.weights": "pretrained",
        "model.new_tokens": json.dumps([TURN, OVER]),
        "model.pad_vocab_to": 64,
        "model.dead_rows": "repair",
        "data.template": template,
        "data.train[0].path": data,
        "data.train[1].path": data,
        "data.eval[0].path": data,
        "mesh.fsdp": 4,
        "mesh.tensor": 2,
        "optim.peak_lr": 1e-2,
        "train.steps": 60,
        "checkpoint.save_every_steps": 30,
        "eval.every_steps": None,
        "eval.prompts": 0,  # the answers of one run are enough
    }
    return {f"--config.{name}": value for name, value in given.items()}


def spelt(flags, **changes):
    changed = {f"--config.{name.replace('__', '.')}": value for name, value in changes.items()}
    return [f"{name}={value}" for name, value in (flags | changed).items() if value is not ...]


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    return workdir, train(workdir, *spelt(flags, eval__prompts=2))


def tool(name, *arguments):
    done = programs.tool(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_run_says_what_it_adds_and_repairs(run):
    stdout = run[1].stdout
    assert "new tokens: '<|turn|>' is 512, '<|over|>' is 513\n" in stdout
    assert "vocabulary: 513 rows before, 576 now, 62 of them padding" in stdout
    assert "token 0: its row of embedding_VD was never trained: its norm is 0" in stdout
    assert f"these are not in the export: {OWN_CODE}\n" in stdout
    assert "token 512" not in stdout and "token 1:" not in stdout
    tables = json.loads((run[0] / "summary.json").read_text())["tables"]
    assert [(one["new"], one["new_moved"]) for one in tables] == [(2, 2)] * len(tables)
    assert {row["text"] for row in tables[0]["top"] if row["new"]} == {TURN, OVER}


def test_the_new_end_of_turn_is_trained_and_only_the_templates_one(flags):
    config = f"--config={ROOT / 'configs' / 'debug.py'}"
    shown = tool("inspect_data", config, "--format=jsonl", "--limit=1", *spelt(flags))
    row = json.loads(shown.splitlines()[0])
    trained = [index for index, weight in zip(row["ids"], row["weights"], strict=True) if weight]
    assert trained[-1] == FIRST + 1 and trained.count(FIRST + 1) == 1
    assert row["ids"].count(FIRST + 1) == row["ids"].count(FIRST) == 2
    assert row["supervised"] == ["a <|over|> b<|over|>"]


def test_transformers_reads_the_export_and_stops_where_it_was_trained_to(run):
    import torch
    import transformers

    directory = run[0] / "export"
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert tokenizer.convert_tokens_to_ids([TURN, OVER]) == [FIRST, FIRST + 1]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert theirs.config.vocab_size == ROWS
    assert theirs.generation_config.eos_token_id[0] == FIRST + 1
    ids = tokenizer.apply_chat_template(TALK[:1], add_generation_prompt=True, return_dict=False)
    assert ids[:2] == [0, FIRST]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
        answer = theirs.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)
    np.testing.assert_allclose(
        jaxsft.load_model(directory)(np.array([ids], np.int32)), expected, atol=1e-4, rtol=0
    )
    said = answer[0, len(ids) :].tolist()
    assert said[-1] == FIRST + 1
    assert tokenizer.decode(said, skip_special_tokens=True) == TALK[1]["content"]
    table = theirs.get_output_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(
        table[FIRST + 2 :], np.tile(table[: FIRST + 2].mean(0), (62, 1)), atol=1e-6
    )


def test_a_run_stopped_half_way_ends_the_same(run, flags, tmp_path):
    workdir = tmp_path / "workdir"
    shutil.copytree(run[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "60")
    shutil.rmtree(workdir / "export")
    assert "from step 30 of 60" in train(workdir, *spelt(flags)).stdout
    assert_same_result(workdir, run[0])
    for name, value, before in (("pad_vocab_to", 32, 64), ("dead_rows", "warn", "'repair'")):
        refused = train(workdir, *spelt(flags, **{f"model__{name}": value}), check=False)
        assert refused.returncode == 66, refused.stderr
        assert f"config.model.{name} was {before} when this run began" in refused.stderr


def test_any_checkpoint_can_be_exported_in_both_formats(run, tmp_path):
    gguf = pytest.importorskip("gguf")
    said = tool("export_hf", f"--workdir={run[0]}", f"--output={tmp_path / 'last'}")
    assert f"these are not in the export: {OWN_CODE}\n" in said
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        assert (tmp_path / "last" / name).read_bytes() == (run[0] / "export" / name).read_bytes()
    file = tmp_path / "half.gguf"
    flags = ("--format=gguf", "--gguf_dtype=f32", "--step=30")
    tool("export_hf", f"--workdir={run[0]}", f"--output={file}", *flags)
    fields = gguf.GGUFReader(file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[FIRST : FIRST + 2] == [TURN, OVER] and len(tokens) == ROWS
    assert fields["tokenizer.ggml.eot_token_id"].contents() == FIRST + 1


def test_the_export_is_the_next_runs_source(run, flags, tmp_path):
    """Its tokens are its own now: naming them again is refused."""
    refused = train(tmp_path / "r", *spelt(flags, model__source=run[0]), check=False)
    assert refused.returncode == 66
    assert "'<|turn|>' is a token already, id 512; leave it out of" in refused.stderr
    kept = spelt(flags, model__source=run[0], model__new_tokens=..., train__steps=1)
    done = train(tmp_path / "next", *kept)
    lines = (tmp_path / "next" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["eval/talk/loss"] < 0.1
    assert "rows before" not in done.stdout
    config = json.loads((tmp_path / "next" / "export" / "config.json").read_text())
    assert config["vocab_size"] == ROWS and config["eos_token_id"][0] == FIRST + 1


def test_padding_lets_a_mesh_split_an_odd_vocabulary(flags, tmp_path):
    own = {"model__new_tokens": ..., "data__template": ..., "model__dead_rows": ...}
    own |= {"train__steps": 1, "model__pad_vocab_to": ...}
    refused = train(tmp_path / "r", *spelt(flags, **own), check=False)
    assert refused.returncode == 64
    assert "does not divide the 513 of axis 'vocab'" in refused.stderr
    assert "config.model.pad_vocab_to=2" in refused.stderr
    done = train(tmp_path / "w", *spelt(flags, **own | {"model__pad_vocab_to": 2}))
    assert "vocabulary: 513 rows before, 514 now, 1 of them padding" in done.stdout
    assert "warning: the template writes token 1, whose embedding was never tr" in done.stdout


def test_without_the_new_tokens_the_error_names_the_field(flags, tmp_path):
    refused = train(tmp_path / "w", *spelt(flags, model__new_tokens=...), check=False)
    assert refused.returncode == 65
    flag = """--config.model.new_tokens='["<|turn|>", "<|over|>"]'"""
    assert f"['<|turn|>', '<|over|>'] look like control tokens: {flag} makes" in refused.stderr
    assert refused.stderr.count("look like control tokens") == 1  # one cause, however many rows
