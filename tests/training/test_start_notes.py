"""What a run is about to do is said in few lines, and truly."""

import dataclasses
import types
from typing import Any

import numpy as np

from jaxsft.config import Checkpoint, Optim, Train
from jaxsft.training.start_notes import start_notes
from tests.training.test_mesh_fit import config


class Cached:
    supervised = None

    def __len__(self):
        return 1234


def told(**sections: Any) -> dict[str, str]:
    epochs = types.SimpleNamespace(sums_of_steps=lambda values: np.array([100, 140]))
    job: Any = types.SimpleNamespace(num_steps=1000, batches=types.SimpleNamespace(epochs=epochs))
    data: Any = types.SimpleNamespace(train=Cached(), eval={"holdout": range(60)})
    return dict(start_notes(dataclasses.replace(config(), **sections), job, data, "runs/mine"))


def test_data_batch_rate_and_files_are_told():
    length = config().data.sequence_length
    notes = told(
        train=Train(batch_size=8, microbatches=2, steps=1000),
        optim=Optim(peak_lr=2e-5, warmup_steps=10, weight_decay=0.1),
        checkpoint=Checkpoint(save_every_steps=500),
    )
    assert notes == {
        "data": "1,234 examples to train on; evaluated on: holdout 60",
        "batch": f"8 rows of {length:,} tokens a step in 2 parts; about 120 tokens of them are"
        " trained on",
        "rate": "adamw, 2e-05 after 10 steps of warm-up, cosine down to 2e-06; weight decay 0.1,"
        " gradients clipped at 1",
        "files": "runs/mine: report.html, metrics.jsonl; saved every 15 minutes and every 500"
        " steps, export/ at the end",
    }
    constant = Optim(peak_lr=1e-3, schedule="constant", max_grad_norm=None, warmup_steps=0)
    kept = Checkpoint(save_every_minutes=None, export=False)
    notes = told(optim=constant, checkpoint=kept)
    assert "constant; weight decay 0, gradients not clipped" in notes["rate"]
    assert notes["files"] == "runs/mine: report.html, metrics.jsonl; saved at the end"
